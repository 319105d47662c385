"""One run, from its spec to a folder with everything a person wants to see of it.

RunSpec
  | assemble          data, methods, settings
  | resume_point      the checkpoint to resume, and what was changed since
  | read_data         read and split; compared with those of the checkpoint
  | build_recipe      the module of the run
  | train             fit, test, write the outputs (`outputs.py`)
Result
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from datamodules.datamodule import StreamDataModule
from datamodules.facts import DatasetFacts
from foundation.exit_codes import Terminated
from foundation.randomness import Randomness
from recipes.checkpointing.best import BestCheckpoint
from recipes.checkpointing.files import run_folder, writing
from recipes.checkpointing.preemption import Termination, saved_line
from recipes.checkpointing.writing import LastCheckpoint
from recipes.engine.hardware import backend_of, peak_memory
from recipes.engine.parts import RecipeParts
from recipes.engine.recipe import Recipe
from recipes.loggers.build import build_loggers, close_loggers
from recipes.loggers.console import RouxProgressBar
from recipes.runs.lightning import build_trainer, hooked_methods, quieten, uses_hooks
from recipes.runs.memory import memory_is_named
from recipes.runs.outputs import Parts, write_outputs, write_settings
from recipes.runs.plan import describe
from recipes.runs.processes import lost_processes
from recipes.runs.provenance import provenance
from recipes.runs.ranks import further_rank, notify
from recipes.runs.restoring import restoring
from recipes.runs.resume import identity, resume_point, with_data
from recipes.services.statistics import ClassStatistics
from recipes.setup.assemble import Assembly, assemble, plain
from recipes.setup.length import check_length, in_steps
from recipes.setup.machine import check_machine
from recipes.setup.monitor import heads_speak
from recipes.setup.parts import make_optimizer, make_tasks, network_to_train
from recipes.setup.patience import patience_of
from recipes.setup.plateau import plateau_of
from recipes.setup.remarks import remarks
from recipes.setup.spec import Result, RunSpec
from recipes.step.step import Stream

__all__ = [
    "build_recipe",
    "build_trainer",
    "check",
    "checkpoints",
    "hooked_methods",
    "quieten",
    "read_data",
    "run",
    "set_up",
    "uses_hooks",
]


def run(spec: RunSpec, callbacks: Sequence[Callback] = ()) -> Result:
    """Train, evaluate and write the run's folder. `dry_run` prints the plan and stops. callbacks:
    further ones of Lightning's."""
    with memory_is_named(spec.config):
        return run_once(spec, callbacks)


def run_once(spec: RunSpec, callbacks: Sequence[Callback] = ()) -> Result:
    quieten()
    check_length(spec)
    assembly = assemble(spec)
    check_machine(assembly.trainer, assembly.precision)
    if spec.dry_run:
        assembly.datamodule.look()
        print(describe(assembly, assembly.meta_network()), end="")
        return Result({}, assembly.monitor)
    resume = resume_point(spec) if spec.resume else None
    network = assembly.meta_network()
    trained = bool(spec.weights_of)
    before = remarks(assembly, network, trained)
    note(before)
    read_data(assembly)
    assembly = in_steps(assembly)
    resume = with_data(spec, assembly.datamodule, resume)
    note([line for line in remarks(assembly, network, trained) if line not in before])
    if resume:
        assembly = replace(assembly, changes=resume.changes)
    plan = describe(assembly, network, trained)
    recipe = build_recipe(assembly)
    if resume:
        resume.check(spec, assembly, recipe)
    nodes = plain(assembly.config).get("logger")
    loggers = build_loggers(
        nodes,
        spec.folder,
        resume.done if resume else None,
        resume.history(spec.folder) if resume else None,
    )
    parts = Parts(spec, assembly, recipe, loggers, resume, plan)
    try:
        with interruptible():
            metrics = train(parts, callbacks)
    except BaseException:
        close_loggers(loggers, failed=True)
        raise
    return Result(metrics, assembly.monitor)


def note(lines: Sequence[str]) -> None:
    if not further_rank():
        notify([f"note: {line}" for line in lines])


def check(spec: RunSpec) -> str:
    """Raise `UserError` if a run could not begin, as far as is known without its data. Returns
    the metric that judges it."""
    check_length(spec)
    assembly = assemble(spec)
    assembly.meta_network()
    return assembly.monitor


def read_data(assembly: Assembly) -> None:
    """Seed Python, NumPy and torch; read and split the data."""
    pl.seed_everything(assembly.config.seed, workers=True, verbose=False)
    assembly.datamodule.prepare_data()
    assembly.datamodule.setup()


def set_up(assembly: Assembly) -> Recipe:
    """Read the data and build the module of the run."""
    read_data(assembly)
    return build_recipe(assembly)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches the caller as `KeyboardInterrupt`: Lightning turns it into an exit and ignores
    the next ones."""
    main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        if main_thread:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


def build_recipe(assembly: Assembly, facts: DatasetFacts | None = None) -> Recipe:
    """The module of the run. facts: of its data; None: of data that has been set up."""
    config = assembly.config
    fingerprint = None if facts else assembly.datamodule.fingerprint()
    facts = facts or assembly.datamodule.facts()
    counts = {name: torch.tensor(n) for name, n in facts.counts.items()}
    tasks = make_tasks(assembly, facts, counts)
    make_network = partial(network_to_train, assembly, {task.name: task.outputs for task in tasks})
    network = make_network()
    parts = RecipeParts(
        network=network,
        tasks=tasks,
        composition=assembly.composition,
        statistics=ClassStatistics(counts),
        sizes=facts.sizes,
        make_view=partial(make_view, assembly.datamodule),
        view_states=assembly.datamodule.view_states(),
        make_optimizer=partial(make_optimizer, assembly),
        make_network=make_network,
        reference_batches=assembly.datamodule.reference_batches,
        drawn_samples=assembly.datamodule.drawn_samples,
        probes=list(assembly.probes.values()),
        classifies=heads_speak(config, assembly.datamodule.info.disjoint),
        evaluated={stage: assembly.datamodule.evaluated(stage) for stage in ("val", "test")},
        monitor=config.monitor,
        seed=config.seed,
        total_steps=assembly.trainer.max_steps,
        log_every=assembly.trainer.log_every,
        skip_nonfinite=assembly.trainer.nonfinite == "skip",
        backend=backend_of(assembly.trainer.compile),
        channels_last=assembly.trainer.channels_last,
        identity=identity(config),
        provenance=provenance(
            config,
            facts,
            network,
            assembly.changes,
            fingerprint,
            assembly.composition.methods.values(),
        ),
    )
    return Recipe(parts)


def make_view(data: StreamDataModule, stream: Stream, view: str, randomness: Randomness) -> Any:
    """A view of a stream's batch, with numbers drawn by stream, purpose and position."""
    if data.is_on_host(view):
        # the numbers that the loader's workers draw for it
        randomness = replace(randomness, device="cpu")

    def draw(purpose: str) -> Any:
        return randomness.draw(f"{stream.name}/{purpose}", stream.size)

    return data.make_view(stream.data, view, draw)


def checkpoints(
    assembly: Assembly,
    folder: Path,
    termination: Termination | None = None,
    resumed: Path | None = None,
) -> list[Checkpoint]:
    """`best.ckpt` by the monitored metric of the validation part, and `last.ckpt`, which knows of
    it. termination: asked whether the run has to end. resumed: the checkpoint that the run
    resumes."""
    validates = bool(assembly.datamodule.evaluated("val"))
    settings = assembly.trainer
    termination = termination or Termination(settings.log_every)
    last = LastCheckpoint(
        folder, assembly.checkpoint, settings.validation_interval, validates, termination
    )
    if not validates:
        return [last]
    return [BestCheckpoint(folder, assembly.monitor, resumed), last]


def train(parts: Parts, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
    """Fit, test with the last weights, write the outputs; returns the final metrics."""
    assembly = parts.assembly
    recipe = parts.recipe
    folder = parts.folder
    termination = Termination(assembly.trainer.log_every)
    own = own_callbacks(parts, termination)
    trainer = build_trainer(assembly, parts.loggers, folder, [*own, *callbacks])
    with run_folder(folder), owned(trainer, folder):
        if trainer.is_global_zero:
            write_settings(parts)
        try:
            with termination.kept(), lost_processes(trainer):
                fit_and_test(parts, trainer)
        except SIGTERMException as stop:
            raise Terminated(saved_line(trainer.global_step, folder)) from stop
        final = recipe.latest | {"train_seconds": recipe.clock.seconds}
        memory = peak_memory(recipe.device)
        if memory is not None:
            final["peak_memory_bytes"] = float(memory)
        write_outputs(parts, final)
    return final


def own_callbacks(parts: Parts, termination: Termination) -> list[Callback]:
    """Checkpoints, progress bar, methods that use Lightning's hooks, new rates of a resumed run."""
    settings = parts.assembly.trainer
    resumed = parts.resume.path if parts.resume else None
    validates = bool(parts.assembly.datamodule.evaluated("val"))
    callbacks: list[Callback] = [*checkpoints(parts.assembly, parts.folder, termination, resumed)]
    if settings.progress_bar:
        micro_batches = settings.log_every * settings.accumulate_grad_batches
        callbacks.append(RouxProgressBar(micro_batches))
    callbacks += patience_of(settings.patience, parts.assembly.monitor, validates)
    callbacks += plateau_of(parts.assembly.scheduler, parts.assembly.monitor, validates)
    callbacks += hooked_methods(parts.recipe.composition.methods.values())
    callbacks += parts.assembly.callbacks
    if parts.resume:
        callbacks += parts.resume.callbacks
    return callbacks


def fit_and_test(parts: Parts, trainer: pl.Trainer) -> None:
    data = parts.assembly.datamodule
    if parts.assembly.trainer.max_steps:
        path = parts.resume.path if parts.resume else None
        with restoring(path):
            trainer.fit(parts.recipe, datamodule=data, ckpt_path=path, weights_only=True)
    trainer.test(parts.recipe, datamodule=data, verbose=False)


def owned(trainer: pl.Trainer, folder: Path) -> AbstractContextManager[None]:
    """The folder is held by the process that writes it."""
    return writing(folder) if trainer.is_global_zero else nullcontext()
