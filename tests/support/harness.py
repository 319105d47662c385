"""The real engine on small fake data: `train` runs true Lightning steps on CPU in fractions of a
second.

    result = train({"fixmatch": FixMatch()}, steps=5, kind="text", norm=True)
    result.losses, result.history, result.parameters, result.recipe

Everything but the data and the network is the engine's own: compose, Recipe, Trainer, Lightning's
optimization. Batches have the form that loaders deliver; views add noise that is keyed as real
views are. `build` returns the parts without running them; `step_with` makes a step whose outputs
are given, for the worked numbers of a method's terms.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from foundation.randomness import Randomness, generator
from recipes.contract import Method
from recipes.contract.composition import Composition, compose
from recipes.contract.environment import Environment
from recipes.engine.parts import RecipeParts
from recipes.engine.recipe import Recipe
from recipes.services.statistics import ClassStatistics
from recipes.step import Embedded, Input, Output, Progress, Step, Stream
from recipes.step.criterion import Adjust, Criterion
from recipes.step.gates import Gates
from recipes.tasks.classification import ClassificationTask

VIEWS = frozenset({"raw", "weak", "strong"})
NOISE = {"raw": 0.0, "weak": 0.05, "strong": 0.3}
LABELED_SAMPLES, UNLABELED_SAMPLES, VOCABULARY, LENGTH = 24, 48, 40, 7


class SmallNetwork(nn.Module):
    """embed → features → heads on pictures [N, 3, 8, 8] or texts; `norm` adds batch normalisation.

    `calls` counts forwards and `sizes` lists how many samples each had.
    """

    def __init__(
        self, kind: str, tasks: Mapping[str, int], norm: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.kind, self.feature_dim = kind, 16
        self.calls, self.sizes = 0, []
        if kind == "image":
            between = [nn.BatchNorm2d(8)] if norm else []
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2),
                *between,
                nn.GELU(),
                nn.Conv2d(8, 16, 3, 2),
                nn.Dropout(dropout),
                nn.Flatten(),
            )
        else:
            between = [nn.BatchNorm1d(16)] if norm else []
            self.words = nn.Embedding(VOCABULARY, 16, padding_idx=0)
            self.body = nn.Sequential(nn.Linear(16, 16), *between, nn.Tanh(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict(
            {task: nn.Linear(16, classes) for task, classes in tasks.items()}
        )
        self.gates: Gates | None = None

    def embed(self, view: Any) -> Embedded:
        if self.kind == "image":
            return Embedded(view)
        return Embedded(self.words(view["ids"]), view["mask"], view.get("content"))

    def features(self, embedded: Embedded) -> Tensor:
        if embedded.mask is None:
            return self.body(embedded.x - 0.5)
        real = embedded.mask.unsqueeze(-1).to(embedded.x.dtype)
        return self.body((embedded.x * real).sum(1) / real.sum(1).clamp_min(1))

    def forward(self, embedded: Embedded) -> Output:
        self.calls += 1
        self.sizes.append(len(embedded.x))
        features = self.features(embedded)
        gate = self.gates or (lambda values, task: values)
        return Output(
            features, {task: head(gate(features, task)) for task, head in self.heads.items()}
        )


def noisy_view(stream: Stream, view: str, randomness: Randomness) -> Any:
    """Pictures: pixels / 255 plus keyed normal noise. Texts: words replaced at random, `raw` leaves
    both alone."""
    strength = NOISE[view.rstrip("0123456789")]
    draw = randomness.draw(f"{stream.name}/{view}", stream.size)
    if isinstance(stream.data, dict):
        ids = stream.data["words"].long()
        swap = (draw.uniform(LENGTH) < strength) & (ids > 0)
        other = randomness.draw(f"{stream.name}/{view}/words", stream.size).integers(
            1, VOCABULARY, LENGTH
        )
        ids = torch.where(swap, other, ids)
        return {"ids": ids, "mask": ids > 0}
    return stream.data.float() / 255 + strength * draw.normal(*stream.data.shape[1:])


@dataclass(frozen=True)
class Setup:
    """What a small run is made of; `train` takes these as keywords.

    labeled, unlabeled: rows of a micro-batch. steps: optimizer steps to run, total: length the
        ramps see.
    missing: a third of every task's labels are -1. dropout, norm: parts of the network.
    """

    kind: str = "image"
    tasks: Mapping[str, int] = field(default_factory=lambda: {"label": 3})
    norm: bool = False
    dropout: float = 0.0
    labeled: int = 6
    unlabeled: int = 12
    steps: int = 3
    total: int | None = None
    lr: float = 0.1
    momentum: float = 0.0
    precision: str = "32-true"
    accumulate: int = 1
    seed: int = 0
    missing: bool = False
    log_every: int = 1
    view: Callable[[Stream, str, Randomness], Any] = noisy_view

    def network(self) -> SmallNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return SmallNetwork(self.kind, self.tasks, self.norm, self.dropout)

    def samples(self, stream: str, rows: int) -> tuple[Any, dict[str, Tensor]]:
        """All samples of a stream, with targets that can be learnt: the class shifts brightness or
        vocabulary."""
        source = generator("samples", stream)
        targets = {}
        for task, classes in self.tasks.items():
            targets[task] = torch.randint(classes, (rows,), generator=source)
            if self.missing and stream == "labeled":
                targets[task][torch.arange(rows) % 3 == len(targets) % 3] = -1
        first = next(iter(targets.values())).clamp_min(0)
        if self.kind == "image":
            pixels = torch.randint(0, 120, (rows, 3, 8, 8), generator=source) + 40 * first.view(
                -1, 1, 1, 1
            )
            return pixels.to(torch.uint8), targets
        words = torch.randint(1, 12, (rows, LENGTH), generator=source) + 12 * first.view(-1, 1)
        length = torch.randint(2, LENGTH + 1, (rows, 1), generator=source)
        return {"words": torch.where(torch.arange(LENGTH) < length, words, 0).int()}, targets

    def batches(self, streams: set[str]) -> list[dict[str, Any]]:
        """Micro-batches with random rows, a function of their position alone."""
        content = {
            "labeled": (LABELED_SAMPLES, self.labeled),
            "unlabeled": (UNLABELED_SAMPLES, self.unlabeled),
        }
        found: list[dict[str, Any]] = [{"position": p} for p in range(self.steps * self.accumulate)]
        for stream in sorted(streams):
            count, rows = content[stream]
            data, targets = self.samples(stream, count)
            for batch in found:
                index = torch.randint(
                    count, (rows,), generator=generator(self.seed, stream, batch["position"])
                )
                chosen = (
                    {k: v[index] for k, v in data.items()}
                    if isinstance(data, dict)
                    else data[index]
                )
                batch[stream] = {
                    "data": chosen,
                    "targets": {t: v[index] for t, v in targets.items()},
                    "index": index,
                }
        return found

    def composition(self, methods: Mapping[str, Method]) -> Composition:
        environment = Environment(
            kind=self.kind,
            views=VIEWS,
            data="fake",
            tasks=len(self.tasks),
            accumulate=self.accumulate,
            precision=self.precision,
        )
        return compose(methods, environment)

    def statistics(self) -> ClassStatistics:
        targets = self.samples("labeled", LABELED_SAMPLES)[1]
        counts = {t: torch.bincount(v[v >= 0], minlength=self.tasks[t]) for t, v in targets.items()}
        return ClassStatistics(counts)


class Ledger(Logger):
    """A logger that keeps what it hears."""

    name, version = "ledger", "0"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep: the settings are in the test."""


class Batches(IterableDataset):  # type: ignore[type-arg]
    """A stream without length, as the engine's loaders are: Lightning then counts steps, not
    epochs."""

    def __init__(self, content: list[dict[str, Any]]):
        self.content = content

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.content)


@dataclass
class Trained:
    """history: what was logged at each step. parameters: a copy of the network's parameters and
    buffers."""

    recipe: Recipe
    trainer: pl.Trainer
    history: list[dict[str, float]]
    parameters: dict[str, Tensor]

    @property
    def losses(self) -> list[float]:
        return [row["train/loss"] for row in self.history if "train/loss" in row]


def sgd(setup: Setup) -> Callable[[Recipe], tuple[Any, Any]]:
    def make(recipe: Recipe) -> tuple[Any, Any]:
        trained = [p for p in recipe.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=setup.lr, momentum=setup.momentum)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    return make


def build(methods: Mapping[str, Method], setup: Setup, network: nn.Module | None = None) -> Recipe:
    """The recipe of a small run, not yet trained."""
    parts = RecipeParts(
        network=network or setup.network(),
        tasks=[
            ClassificationTask(task, [str(c) for c in range(classes)], partial=setup.missing)
            for task, classes in setup.tasks.items()
        ],
        composition=setup.composition(methods),
        statistics=setup.statistics(),
        sizes={"labeled": LABELED_SAMPLES, "unlabeled": UNLABELED_SAMPLES},
        make_view=setup.view,
        make_optimizer=sgd(setup),
        make_network=lambda: SmallNetwork(setup.kind, setup.tasks, setup.norm, setup.dropout),
        seed=setup.seed,
        total_steps=setup.total or setup.steps,
        log_every=setup.log_every,
    )
    return Recipe(parts)


def small_trainer(setup: Setup, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """The Trainer of a small run: the engine's settings, CPU, no files."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": setup.steps,
        "precision": setup.precision,
        "accumulate_grad_batches": setup.accumulate,
        "callbacks": list(callbacks),
        "logger": Ledger(),
        "num_sanity_val_steps": 0,
        "inference_mode": False,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(**settings | options)


def fit(recipe: Recipe, setup: Setup, *callbacks: pl.Callback, **options: Any) -> Trained:
    """Train a recipe on the setup's batches; `options` go to the Trainer, except `ckpt_path`, a
    checkpoint to resume from, and `start`, the micro-batch to begin with."""
    path, start = options.pop("ckpt_path", None), options.pop("start", 0)
    trainer = small_trainer(setup, *callbacks, **options)
    batches = setup.batches(recipe.composition.streams)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(
            recipe,
            train_dataloaders=DataLoader(Batches(batches[start:]), batch_size=None),
            ckpt_path=path,
        )
    rows = trainer.logger.rows if isinstance(trainer.logger, Ledger) else []
    parameters = {
        name: value.detach().clone() for name, value in recipe.network.state_dict().items()
    }
    return Trained(recipe, trainer, rows, parameters)


def train(methods: Mapping[str, Method] | None = None, **settings: Any) -> Trained:
    """A few true steps with these methods; keywords are those of `Setup`."""
    setup = Setup(**settings)
    methods = methods or {}
    return fit(build(methods, setup), setup, *methods.values())


def step_with(
    logits: Mapping[str, Tensor],
    targets: Tensor | None = None,
    *,
    task: str = "label",
    progress: tuple[int, int] = (1, 1),
    adjust: Adjust | None = None,
) -> Step:
    """A step of which the forward is done: `logits` by input name; the supervised input is
    `labeled`."""
    step = Step(
        streams={},
        randomness=Randomness(0, 0),
        make_view=noisy_view,
        embed=lambda view, network: Embedded(view),
        criterion=Criterion([adjust] if adjust else []),
        progress=Progress(*progress),
        tasks=(task,),
    )
    step.outputs = {name: Output(z, {task: z}) for name, z in logits.items()}
    if targets is not None:
        step.add(Input("labeled", Embedded(torch.zeros(len(targets), 1)), {task: targets}))
    return step


def values_differ(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names under which two sets of tensors are not equal bit for bit."""
    return [name for name in a if not torch.equal(a[name], b[name])]
