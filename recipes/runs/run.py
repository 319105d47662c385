"""One run, from a validated config to a folder with everything a person wants to see of it."""

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from datamodules.facts import Facts
from foundation.errors import UserError
from foundation.exit_codes import Terminated
from foundation.files import write_text
from foundation.randomness import Randomness
from recipes.contract.method import Method
from recipes.engine import sharding
from recipes.engine.hardware import backend_of, peak_memory
from recipes.engine.lean import Unprofiled, hush
from recipes.engine.recipe import Recipe
from recipes.engine.trainer import TrainerSettings
from recipes.loggers.build import build_loggers, close_loggers, finish_loggers, start_loggers
from recipes.loggers.console import RouxProgressBar, print_final
from recipes.optimization.optimizers import build_optimizer
from recipes.optimization.schedulers import build_scheduler
from recipes.report.page import write_report
from recipes.runs.assembly import Assembly, assemble, devices_of, heads_speak, plain
from recipes.runs.changes import config_text
from recipes.runs.checkpoint_files import PREVIOUS, run_folder, writing
from recipes.runs.checkpoints import AtomicFiles, LastCheckpoint
from recipes.runs.collect import collect
from recipes.runs.plan import describe
from recipes.runs.preemption import Termination
from recipes.runs.provenance import provenance
from recipes.runs.resume import Resume, identity, resume_point
from recipes.services.statistics import ClassStatistics
from recipes.step.step import Stream
from recipes.tasks.classification import ClassificationTask, shot_groups


def run(
    config: DictConfig,
    command: list[str],
    complete: bool = False,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train, evaluate and write the run's folder; returns the final metrics. `dry_run` prints the
    plan and stops. complete: a checkpoint that has nothing left to train may be resumed, and is
        evaluated. callbacks: further ones."""
    assembly = assemble(config)
    if config.dry_run:
        print(describe(assembly, assembly.meta_network()), end="")
        return {}
    folder = Path(config.run_dir).expanduser()
    resume = resume_point(config) if config.resume else None
    assembly.changes = resume.changes if resume else []
    plan = describe(assembly, assembly.meta_network())
    pl.seed_everything(config.seed, workers=True, verbose=False)
    assembly.datamodule.prepare_data()
    assembly.datamodule.setup()
    recipe = build_recipe(assembly)
    if resume:
        resume.check(assembly, recipe, complete)
    loggers = build_loggers(plain(config).get("logger"), folder, resume.done if resume else None)
    try:
        with interruptible():
            return train(assembly, recipe, loggers, folder, resume, plan, command, callbacks)
    except BaseException:
        close_loggers(loggers, failed=True)
        raise


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


def check(config: DictConfig) -> None:
    """Raise `UserError` where a run of this config could not begin, as far as can be told without
    its data."""
    assemble(config).meta_network()


def build_recipe(assembly: Assembly, facts: Facts | None = None) -> Recipe:
    """The module of the run. facts: of its data; None: of data that has been set up."""
    datamodule, settings, config = assembly.datamodule, assembly.trainer, assembly.config
    facts = facts or datamodule.facts()
    counts = {name: torch.tensor(n) for name, n in facts.counts.items()}
    tasks = [
        ClassificationTask(
            name,
            classes,
            partial=name in facts.missing,
            weight=config.supervised_weight,
            groups=shot_groups(counts[name], datamodule.shots),
        )
        for name, classes in facts.classes.items()
    ]
    network = assembly.build_network(
        {name: len(classes) for name, classes in facts.classes.items()}
    )
    if config.supervised_weight == 0:
        network.heads.requires_grad_(
            False
        )  # nothing teaches them, and DDP waits for what is trained

    def make_view(stream: Stream, view: str, randomness: Randomness) -> Any:
        name, size = stream.name, stream.size
        return datamodule.make_view(
            stream.data, view, lambda purpose: randomness.draw(f"{name}/{purpose}", size)
        )

    def make_optimizer(recipe: Recipe) -> Any:
        groups = [
            group
            for method in recipe.composition.methods.values()
            for group in method.parameter_groups(recipe)
        ]
        optimizer = build_optimizer(
            recipe, assembly.optimizer, groups, settings.update, assembly.precision
        )
        return optimizer, build_scheduler(optimizer, assembly.scheduler, settings.max_steps)

    return Recipe(
        network=network,
        tasks=tasks,
        composition=assembly.composition,
        statistics=ClassStatistics(counts),
        sizes=facts.sizes,
        make_view=make_view,
        make_optimizer=make_optimizer,
        reference_batches=datamodule.reference_batches,
        probes=list(assembly.probes.values()),
        classifies=heads_speak(config, datamodule.info.disjoint),
        monitor=config.monitor,
        seed=config.seed,
        total_steps=settings.max_steps,
        log_every=settings.log_every,
        skip_nonfinite=settings.nonfinite == "skip",
        backend=backend_of(settings.compile),
        channels_last=settings.channels_last,
        identity=identity(config),
        provenance=provenance(config, facts, network, assembly.changes),
    )


def quieten() -> None:
    """Keep Lightning's advice and banners out of the way of what the run itself says."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in (
        ".*isinstance.treespec, LeafSpec.*",  # inside Lightning, with a newer torch
        ".*smaller than the logging interval.*",  # we log ourselves
        ".*AMP with fp16 is not supported on CPU.*",  # refused in words of our own
        ".*in eval mode at the start of training.*",  # an averaged network is meant to be
        ".*Checkpoint directory .* exists and is not empty.*",  # resuming
        ".*The dirpath has changed from .*",  # resuming in another folder
        # what is logged has been summed over ranks
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        ".*`training_step` returned `None`.*",  # a batch that was left out
        # features are changed in place by nobody
        ".*FSDP2-wrapped module .* returned a view tensor.*",
    ):
        warnings.filterwarnings("ignore", message=advice)


def build_trainer(
    assembly: Assembly, loggers: list[Any], folder: Path, callbacks: list[Callback]
) -> pl.Trainer:
    """Lightning's Trainer as the engine needs it: our samplers, validation by steps, gradients in
    evaluation."""
    quieten()
    s = assembly.trainer
    with available(s):
        trainer = pl.Trainer(
            accelerator=s.accelerator,
            devices=s.devices,
            num_nodes=s.num_nodes,
            strategy=sharding.strategy(devices_of(s))
            if s.strategy == sharding.FSDP
            else s.strategy,
            precision=assembly.precision,  # type: ignore[arg-type]
            max_steps=s.max_steps,
            accumulate_grad_batches=s.accumulate_grad_batches,
            gradient_clip_val=s.gradient_clip_val,
            gradient_clip_algorithm=s.gradient_clip_algorithm,
            val_check_interval=s.validation_interval * s.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            limit_val_batches=s.limit_val_batches,
            deterministic=s.deterministic,
            logger=loggers,
            callbacks=callbacks,
            plugins=[AtomicFiles()],
            default_root_dir=folder,
            profiler=Unprofiled(),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=False,
            enable_model_summary=False,
            enable_progress_bar=s.progress_bar,
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        hush(callback)
    if assembly.precision.startswith("16") and str(trainer.precision).startswith("bf16"):
        raise UserError(
            f"trainer.precision={s.precision}: a CPU has no fp16 training, Lightning would take "
            f"{trainer.precision} in "
            f"its place; write trainer.precision={trainer.precision}, or 32-true"
        )
    return trainer


@contextmanager
def available(s: TrainerSettings) -> Iterator[None]:
    """Accelerators, strategies and precisions that this machine or this Lightning does not have are
    one line."""
    try:
        yield
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".!")
        names = ("accelerator", "devices", "strategy", "precision")
        asked = [
            f"trainer.{n}={getattr(s, n)}"
            for n in names
            if getattr(s, n) != getattr(TrainerSettings, n)
        ]
        remedy = "expected what this machine has, as trainer.accelerator=auto finds it"
        raise UserError(f"{', '.join(asked) or 'trainer'}: {reason}; {remedy}") from error


def checkpoints(assembly: Assembly, folder: Path) -> list[Checkpoint]:
    """`best.ckpt` by the monitored metric of the validation part, and `last.ckpt`, which knows of
    it."""
    validates = "val" in assembly.datamodule.sizes
    settings, ends = assembly.trainer, Termination(assembly.trainer.log_every)
    last = LastCheckpoint(
        folder, assembly.checkpoint, settings.validation_interval, validates, ends
    )
    monitor = str(assembly.config.monitor)
    mode = "min" if monitor.endswith("loss") else "max"
    where: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    if not validates:
        return [last]
    best = ModelCheckpoint(filename="best", monitor=monitor, mode=mode, **where)
    best.on_train_batch_end = None  # type: ignore[method-assign,assignment]  # after validations alone
    return [best, last]


def train(
    assembly: Assembly,
    recipe: Recipe,
    loggers: list[Any],
    folder: Path,
    resume: Resume | None,
    plan: str,
    command: list[str],
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Fit, test with the last weights, write what is left behind."""
    keep = checkpoints(assembly, folder)
    hooks = [m for m in recipe.composition.methods.values() if uses_hooks(m)]
    settings = assembly.trainer
    every = settings.log_every * settings.accumulate_grad_batches
    bar = [RouxProgressBar(every)] if settings.progress_bar else []
    own = resume.callbacks if resume else []
    trainer = build_trainer(assembly, loggers, folder, [*keep, *bar, *hooks, *own, *callbacks])
    with run_folder(folder), owned(trainer, folder):
        if trainer.is_global_zero:
            write_text(folder / "config.yaml", config_text(assembly.config, assembly.changes))
            write_text(folder / "plan.txt", plan)
            start_loggers(loggers, plain(assembly.config), plan)
        try:
            if settings.max_steps:
                path = resume.path if resume else None
                trainer.fit(
                    recipe, datamodule=assembly.datamodule, ckpt_path=path, weights_only=True
                )
            trainer.test(recipe, datamodule=assembly.datamodule, verbose=False)
        except SIGTERMException as stop:
            raise Terminated(folder, trainer.global_step) from stop
        final = recipe.latest | {"train_seconds": recipe.clock.seconds}
        most = peak_memory(recipe.device)
        final |= {} if most is None else {"peak_memory_bytes": float(most)}
        leave_behind(assembly, recipe, loggers, folder, plan, command, final)
    return final


def owned(trainer: pl.Trainer, folder: Path) -> AbstractContextManager[None]:
    """The folder is held by the process that writes it."""
    return writing(folder) if trainer.is_global_zero else nullcontext()


@rank_zero_only
def leave_behind(
    assembly: Assembly,
    recipe: Recipe,
    loggers: list[Any],
    folder: Path,
    plan: str,
    command: list[str],
    final: dict[str, float],
) -> None:
    for method in recipe.at["leave"]:
        method.leave(folder / "checkpoints", recipe)
    record = collect(assembly, recipe, loggers, plan, command, final)
    write_report(record, folder / "report.html")
    (folder / "checkpoints" / PREVIOUS).unlink(missing_ok=True)
    finish_loggers(
        loggers,
        record,
        {kind: folder / "checkpoints" / f"{kind}.ckpt" for kind in ("last", "best")},
    )
    print_final(record.final, title=str(folder), reported=record.reported)


def uses_hooks(method: Method) -> bool:
    """Whether a method listens to Lightning at all; registering one that does not costs 15 to 30 µs
    a hook."""
    return any(
        name.startswith(("on_", "setup", "teardown", "state_dict", "load_state_dict"))
        and getattr(type(method), name) is not getattr(Callback, name, None)
        for name in dir(type(method))
        if name not in ("on_exception",)
    )
