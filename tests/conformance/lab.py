"""Where the trials are held: methods found in `configs/`, runs composed by Hydra, trained by the
real engine.

config = run_of("image", "fixmatch", "mixup", **{"trainer.max_steps": 6})
outcome = trial(config)
outcome.history, outcome.state, outcome.logits
"""

import copy
import csv
import importlib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recipes.config.resolve import resolve_command
from recipes.contract import Declaration
from recipes.engine.recipe import Recipe
from recipes.pairs import Listed, listed
from recipes.runs.assembly import Assembly, assemble
from recipes.runs.run import build_trainer, set_up, uses_hooks
from tests.conformance.settings import CANONICAL, NETWORK, QUIET, RUN, SEVERAL_TASKS, SHARED, TINY

METHODS: dict[str, Listed] = listed()
KINDS = ("image", "text")
LIBRARIES = ("typing", "logging", "inspect", "unittest", "statistics", "tarfile", "ast", "asyncio")


@cache
def declared(key: str) -> Declaration:
    """The declaration of a method under its canonical settings."""
    return METHODS[key].build(**CANONICAL.get(key, {})).declare()


def method_and_kind() -> list[tuple[str, str]]:
    """Every method with every kind of data it declares."""
    return [(key, kind) for key in METHODS for kind in declared(key).modalities]


# -- data ------------------------------------------------------------------------------------------
def _documented(module: Any) -> Iterator[str]:
    for _, entry in sorted(
        inspect.getmembers(module, lambda e: inspect.isclass(e) or inspect.isfunction(e))
    ):
        yield inspect.getdoc(entry) or ""
        if inspect.isclass(entry):
            yield from (
                inspect.getdoc(m) or ""
                for _, m in sorted(inspect.getmembers(entry, inspect.isfunction))
            )


@cache
def text_file() -> str:
    """A csv of short real texts: docstrings of the standard library, labelled with their module and
    length."""
    folder = tempfile.mkdtemp(prefix="roux-texts-")
    path = Path(folder) / "docstrings.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "length"])
        for name in LIBRARIES:
            texts = {
                " ".join(doc.split()[:20]): None
                for doc in _documented(importlib.import_module(name))
            }
            kept = [(text, len(text.split())) for text in list(texts)[:60]]
            rows.writerows(
                [text, name, "long" if words > 9 else "short"] for text, words in kept if words > 3
            )
    return str(path)


# -- configs ---------------------------------------------------------------------------------------
def tiny(kind: str) -> list[str]:
    """The overrides of a tiny run on a kind of data."""
    texts = [f"data.source.train_file={text_file()}"] if kind == "text" else []
    return [*SHARED, *TINY[kind], *texts, "run_dir=unused"]


def circumstances(kind: str, *keys: str) -> dict[str, Any]:
    """What these methods need of a run to work and to show, as changes by dotted key: a network,
    more batches, several tasks."""
    needed = {name: value for key in keys for name, value in RUN.get(key, {}).items()}
    several = SEVERAL_TASKS[kind] if any(declared(key).tasks_at_least > 1 for key in keys) else {}
    return network_for(kind, *keys) | needed | several


@cache
def _composed(kind: str, key: str | None) -> DictConfig:
    """One method's run as Hydra composes and validation accepts it; cached, since that takes most
    of a trial."""
    overrides = tiny(kind)
    if key is not None:
        overrides.append(f"{METHODS[key].family}={key}")
        overrides += [
            f"methods.{key}.{name}={value}" for name, value in CANONICAL.get(key, {}).items()
        ]
    return resolve_command(overrides).config


def run_of(kind: str, *keys: str, **changes: Any) -> DictConfig:
    """The config of a tiny run with these methods, on a network all of them work on; `changes` by
    dotted key. Methods beyond the first are joined to the first one's config (`test_config.py`
    holds this against Hydra's own composition)."""
    config = copy.deepcopy(_composed(kind, keys[0] if keys else None))
    with open_dict(config):
        for key in keys[1:]:
            config.setdefault("methods", {})[key] = copy.deepcopy(_composed(kind, key).methods[key])
            family = METHODS[key].family
            before = [k for k in keys[: keys.index(key)] if METHODS[k].family == family]
            config.chosen[family] = f"[{','.join([*before, key])}]" if before else key
        for name, value in (circumstances(kind, *keys) | changes).items():
            OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


def network_for(kind: str, *keys: str) -> dict[str, Any]:
    """What must be said of the network so that each of these methods works on it."""
    wanted = [NETWORK[key][kind] for key in keys if kind in NETWORK.get(key, {})]
    return {f"network.{name}": value for settings in wanted for name, value in settings.items()}


def quiet_run_of(kind: str, *keys: str, **changes: Any) -> DictConfig:
    """The same on a network in which samples do not meet."""
    network = {f"network.{name}": value for name, value in QUIET[kind].items()}
    return run_of(kind, *keys, **network | changes)


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


def parts(config: DictConfig) -> tuple[Assembly, Recipe]:
    """Data and module of a run, made as `recipes.runs.run` makes them."""
    assembly = assemble(config)
    return assembly, set_up(assembly)


def trial(
    config: DictConfig, callbacks: Sequence[pl.Callback] = (), resume: str | Path | None = None
) -> Outcome:
    """Train a run with fresh objects, from the start or from a checkpoint."""
    assembly, recipe = parts(config)
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
    batch = next(iter(assembly.datamodule.test_dataloader()))
    view = assembly.datamodule.make_view(batch, "raw")
    reported, raw = recipe.predict_logits(view), recipe.predict_logits(view, raw=True)
    return {**reported, **{f"raw/{task}": values for task, values in raw.items()}}


@cache
def alone(kind: str, *keys: str) -> Outcome:
    """Three steps with one method, or none, under the canonical settings."""
    return trial(run_of(kind, *keys))


_QUIET: dict[str, Outcome] = {}


def quiet(kind: str, *keys: str, beside: Sequence[str] = ()) -> Outcome:
    """The same on a network in which samples do not meet. beside: methods that it will be held
    against: the run is such as all of them can work in."""
    changes = circumstances(kind, *keys, *beside)
    # equal circumstances are one run, whoever it is held against
    name = f"{kind} {keys} {sorted(changes.items())}"
    if name not in _QUIET:
        _QUIET[name] = trial(quiet_run_of(kind, *keys, **changes))
    return _QUIET[name]


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
