"""Where the trials are held: tiny runs, trained by the real engine.

config = run_of("image", "fixmatch", "mixup", **{"trainer.max_steps": 6})
outcome = trial(config)
outcome.history, outcome.state, outcome.logits
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from datamodules.datamodule import StreamDataModule
from datamodules.source import DataInfo, Loader, Splits
from recipes.engine.recipe import Recipe
from recipes.runs.run import build_trainer, set_up, uses_hooks
from recipes.setup.assemble import Assembly, assemble
from tests.support.tiny_runs import METHODS, circumstances, company, quiet_run_of, run_of, scratch


@dataclass
class ReadBefore:
    """A source whose parts this process has read for an earlier trial."""

    source: Loader
    splits: Splits

    def info(self) -> DataInfo:
        return self.source.info()

    def load(self, root: str | None) -> Splits:
        return self.splits


_READ: dict[str, tuple[Splits, Any]] = {}


def read_once(config: DictConfig, datamodule: StreamDataModule) -> None:
    """Give a run the samples and the codec of an earlier one with the same data: reading digits and
    training a tokenizer take as long as three steps do."""
    if config.network.pretrained:  # its tokenizer belongs to the network, not to the data
        return
    data = OmegaConf.masked_copy(config.data, ["_target_", "source", "root", "text"])
    key = json.dumps(OmegaConf.to_container(data), sort_keys=True)
    if key not in _READ:
        splits = datamodule.source.load(datamodule.root)
        codec = datamodule.text(splits) if datamodule.text is not None else None
        _READ[key] = splits, codec
    splits, codec = _READ[key]
    datamodule.source = ReadBefore(datamodule.source, splits)
    if codec is not None:
        datamodule.text = lambda splits: codec


# -- runs ------------------------------------------------------------------------------------------
class History(Logger):
    """A logger that keeps what it hears, by step."""

    name, version = "history", "0"

    def __init__(self) -> None:
        super().__init__()
        self.by_step: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.by_step.setdefault(int(step or 0), {}).update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The config is known to the trial."""


@dataclass
class Outcome:
    """What a run left. start, state: the recipe's tensors before and after. logits: of 64 test
    samples, as reported and raw. history: what was logged, by step."""

    recipe: Recipe
    trainer: pl.Trainer
    start: dict[str, Tensor]
    state: dict[str, Tensor]
    logits: dict[str, Tensor]
    history: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def terms(self) -> set[str]:
        """Names of the loss terms of the last step."""
        return set(self.recipe.last_step.losses) if self.recipe.last_step else set()


def tensors(recipe: Recipe) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in recipe.state_dict().items()}


def parts(
    config: DictConfig, before_build: Callable[[Assembly], None] | None = None
) -> tuple[Assembly, Recipe]:
    """Data and module of a run, made as `recipes.runs.run` makes them. before_build: sees the
    composed methods before any of them touches the network."""
    assembly = assemble(config)
    if before_build is not None:
        before_build(assembly)
    read_once(config, assembly.datamodule)
    return assembly, set_up(assembly)


def trial(
    config: DictConfig,
    callbacks: Sequence[pl.Callback] = (),
    resume: str | Path | None = None,
    before_build: Callable[[Assembly], None] | None = None,
) -> Outcome:
    """Train a run with fresh objects, from the start or from a checkpoint."""
    assembly, recipe = parts(config, before_build)
    start, history = tensors(recipe), History()
    hooks = [method for method in recipe.composition.methods.values() if uses_hooks(method)]
    keep = [c for c in callbacks if isinstance(c, ModelCheckpoint)] or [
        ModelCheckpoint(save_top_k=0)
    ]
    others = [c for c in callbacks if not isinstance(c, ModelCheckpoint)]
    trainer = build_trainer(
        assembly, [history], Path(tempfile.gettempdir()), [*keep, *hooks, *others]
    )
    trainer.fit(recipe, datamodule=assembly.datamodule, ckpt_path=resume, weights_only=True)
    return Outcome(
        recipe, trainer, start, tensors(recipe), evaluated(assembly, recipe), history.by_step
    )


@torch.no_grad()
def evaluated(assembly: Assembly, recipe: Recipe) -> dict[str, Tensor]:
    """Logits by task of the first test samples, as reported and, under `raw/`, of the trained
    network."""
    recipe.eval()
    batch = next(iter(assembly.datamodule.evaluation_loader("test")))
    view = assembly.datamodule.make_view(batch, "raw")
    reported, raw = recipe.predict_logits(view), recipe.predict_logits(view, raw=True)
    return {**reported, **{f"raw/{task}": values for task, values in raw.items()}}


# tests come method by method: what a process remembers is bounded
@lru_cache(maxsize=8)
def alone(kind: str, *keys: str) -> Outcome:
    """Three steps with one method, or none, under the canonical settings."""
    return trial(run_of(kind, *keys))


STEPS, STOP = 6, 3
SIX_STEPS: dict[str, Any] = {
    "trainer.max_steps": STEPS,
    # momentum and a rate that changes make state of optimizer and scheduler matter
    "scheduler": {
        "_target_": "recipes.optimization.schedulers.Cosine",
        "warmup_steps": 2,
        "final": 0.1,
    },
}


def moment(key: str) -> str:
    """When the checkpoint of a method's run is saved: before the validation that follows the step,
    or after it. The methods take turns."""
    return ("last", "best")[list(METHODS).index(key) % 2]


def saving(folder: Path, moment: str) -> ModelCheckpoint:
    """The engine's own kinds of checkpoint (`recipes.runs.run.checkpoints`), all of them kept:
    `last` is saved after a step and before the validation that follows it, `best` after that
    validation."""
    when: dict[str, Any] = {"every_n_train_steps": STOP, "save_on_train_epoch_end": True}
    if moment == "best":
        when = {"monitor": "val/accuracy", "mode": "max"}
    return ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, enable_version_counter=False, **when
    )


@lru_cache(maxsize=8)
def six_steps(kind: str, key: str) -> tuple[Outcome, Path]:
    """Six steps with one method, and the checkpoint of the third: one run for all trials that look
    at a method by itself."""
    folder = Path(scratch().name) / f"{kind}-{key}"
    outcome = trial(run_of(kind, key, **SIX_STEPS), [saving(folder, moment(key))])
    return outcome, folder / f"step={STOP}.ckpt"


QUIET_RUNS = 32  # that are remembered: those without methods serve many
_QUIET: dict[str, Outcome] = {}


def quiet(kind: str, *keys: str, beside: Sequence[str] = ()) -> Outcome:
    """The same on a network in which samples do not meet. beside: methods that it will be held
    against: the run is such as all of them can work in."""
    changes = circumstances(kind, *keys, *beside)
    keys = tuple(key for key in company(*keys, *beside) if key not in beside)
    # equal circumstances are one run, whoever it is held against
    name = f"{kind} {keys} {sorted(changes.items())}"
    outcome = _QUIET.pop(name, None) or trial(quiet_run_of(kind, *keys, **changes))
    _QUIET[name] = outcome  # the last in order
    if len(_QUIET) > QUIET_RUNS:
        del _QUIET[next(iter(_QUIET))]
    return outcome


# -- comparisons -----------------------------------------------------------------------------------
def unequal(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names under which two sets of tensors are not equal bit for bit."""
    same = a.keys() & b.keys()
    return sorted(
        (a.keys() ^ b.keys()) | {name for name in same if not torch.equal(a[name], b[name])}
    )


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference between two sets of tensors of the same names."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def differs(a: Outcome, b: Outcome) -> bool:
    """Whether two runs ended with other weights, or evaluate otherwise, by more than sums in
    another order explain. What only one of them has, a head or an adapter, is no difference: it
    must show in what both have."""
    network = [{k: v for k, v in o.state.items() if k.startswith("network.")} for o in (a, b)]
    if any(x.shape != y.shape for x, y in both(a.logits, b.logits).values()):
        return True  # embeddings of two networks stand side by side
    if max(distance(*shared(*network)), distance(*shared(a.logits, b.logits))) > 1e-5:
        return True
    # what has hardly moved in three steps may have gone another way all the same: prompts of a
    # network of one block
    apart = {name: distance({name: x}, {name: y}) for name, (x, y) in both(*network).items()}
    moved = {
        name: distance({name: a.start[name]}, {name: a.state[name]})
        for name in apart
        if name in a.start
    }
    return any(apart[name] > max(1e-6, 0.1 * way) for name, way in moved.items())


def both(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The values of both under each name that both have."""
    return {name: (a[name], b[name]) for name in a if name in b}


def shared(
    a: dict[str, Tensor], b: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both sets under the names that both have."""
    return {name: a[name] for name in a if name in b}, {name: b[name] for name in b if name in a}
