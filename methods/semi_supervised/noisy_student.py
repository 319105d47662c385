"""Noisy Student. Xie, Luong, Hovy and Le, Self-training with Noisy Student improves ImageNet
classification, CVPR 2020, arXiv 1911.04252."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, cast

import pytorch_lightning as pl
import torch
from pydantic import Field
from torch import Tensor, nn

from datamodules.datamodule import StreamDataModule
from datamodules.samplers import Order, ShuffledPasses
from foundation.errors import UserError, nearest
from foundation.randomness import generator
from methods.semi_supervised.targets import confident, make_targets, scores_of
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.tasks.classification import ClassificationTask

UnlabeledWeight = Literal["one", "ratio", "share"]


class NoisyStudent(Method):
    """L = CE(labels) + λ · (1/U) Σ_u H(q_u, p(strong(u))), q_u = softmax(z_teacher(u) / T),
    predicted once by a teacher without noise: evaluation mode, averaged weights where it has them,
    no augmentation.

    Samples with max q ≥ threshold are kept. Of every predicted class the `per_class` most confident
    are taken; a class with fewer repeats its samples, whole rounds of all and a random part for the
    rest, so that all classes come equally often. These make the unlabeled stream of the student.
    The table (samples × C, float32, one a task) lies in the checkpoint: a resumed run does not
    evaluate the teacher again. Every rank evaluates it on all samples, so none filters by itself.

    The student's noise is the strong view, and what the network has (`network.drop_rate`). Ours:
    labeled samples keep their weak view, which the paper noises as well. Raises UserError where the
    teacher knows other classes, or is confident of no sample.

    teacher: folder or checkpoint of the teacher's run; `{NAME}`: that of stage NAME; null: the
        network as the run starts. The teacher has the same classes and any architecture; null is
        distillation from itself.
    threshold: confidence from which a sample is kept, 0 to 1; 0.3 (paper).
    per_class: samples taken of each predicted class; null: as many as the largest class has; 0: no
        balancing. The paper takes 130,000.
    hard: learn the most probable class alone; false: soft labels (better, paper).
    temperature: T of the teacher's softmax, above 0; 1 (paper).
    unlabeled_weight: weight λ: `one` (paper), `ratio` U/B (authors' code) or `share` U/(B + U). The
        authors' code divides the sum over both by the labeled batch.
    task: task whose predicted classes are balanced; null: the first.
    """

    def __init__(
        self,
        teacher: str | None = None,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.3,
        per_class: Annotated[int, Field(ge=0)] | None = None,
        hard: bool = False,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        unlabeled_weight: UnlabeledWeight = "one",
        task: str | None = None,
    ):
        self.teacher = teacher
        self.threshold = threshold
        self.per_class = per_class
        self.hard = hard
        self.temperature = temperature
        self.unlabeled_weight = unlabeled_weight
        self.task = task
        self._told: Told | None = None  # the registered module, for the order of the samples

    def declare(self) -> Declaration:
        return Declaration(
            views={"unlabeled": ("raw", "strong")},
            slots=("pseudo_labels",),
            tags=("unlabeled_loss",),
            orders={"unlabeled": self._order},
        )

    def build(self, context: Context) -> None:
        rows = context.sizes["unlabeled"]
        self._told = Told({name: task.outputs for name, task in context.tasks.items()}, rows)
        context.method_modules[self.key] = self._told

    # -- before the first step ---------------------------------------------------------------------
    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        context = cast(Context, module)
        told = context.method_modules[self.key]
        task = self.task or next(iter(context.tasks))
        if task not in context.tasks:
            raise UserError(f"methods.{self.key}.task={task}: {nearest(task, context.tasks)}")
        if not told.known:
            told.write(self._predictions(trainer, context))
        q = told[task].cpu()
        told.taken = taken(q, self.threshold, self.per_class, generator(context.seed, self.key))
        if not len(told.taken):
            raise UserError(
                f"methods.{self.key}.threshold={self.threshold}: the teacher is so sure of none of "
                f"{len(q)} samples; "
                f"its largest probability is {float(q.max()):.3f}"
            )

    @torch.no_grad()
    def _predictions(self, trainer: pl.Trainer, context: Context) -> dict[str, Tensor]:
        """q [samples, C] by task, asked for in batches of the evaluation's size."""
        data: StreamDataModule = trainer.datamodule  # type: ignore[attr-defined]
        speak = self._speaker(context)
        parts: dict[str, list[Tensor]] = {task: [] for task in context.tasks}
        for batch in data.pass_over("unlabeled"):
            batch = data.transfer_batch_to_device(batch, context.device, 0)
            logits = speak(data.make_view(batch, "raw"), batch["index"])
            for task, found in parts.items():
                found.append(torch.softmax(logits[task].float() / self.temperature, 1))
        return {task: torch.cat(found) for task, found in parts.items()}

    def _speaker(self, context: Context) -> Callable[[Any, Tensor], Mapping[str, Tensor]]:
        """view, index -> logits by task, of the teacher in evaluation mode."""
        if self.teacher is None:
            return evaluated(context)
        from recipes.predict.loading import load  # it builds recipes, of which methods are a part

        try:
            predictor = load(self.teacher, device=context.device)
        except UserError as error:
            raise error.about(f"methods.{self.key}.teacher") from error
        for name, task in context.tasks.items():
            classes = task.classes if isinstance(task, ClassificationTask) else []
            if predictor.classes.get(name) != list(classes):
                raise UserError(
                    f"methods.{self.key}.teacher: '{self.teacher}' knows other classes of '{name}' "
                    "than the data"
                )
        return predictor

    def _order(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        positions = self._told.taken if self._told is not None else None
        if positions is None:  # asked for before the run has begun, to see whether it can be
            return ShuffledPasses(len(next(iter(targets.values()))), seed, stream)
        return Chosen(positions, ShuffledPasses(len(positions), seed, stream))

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "strong")

    def terms(self, step: Step, context: Context) -> None:
        stream = step.streams["unlabeled"]
        ratio = stream.size / step.streams["labeled"].size
        weight = {"one": 1.0, "ratio": ratio, "share": ratio / (1 + ratio)}[self.unlabeled_weight]
        for task in step.tasks:
            scores = scores_of(context.method_modules[self.key][task][stream.index])
            sure = partial(confident, threshold=self.threshold)
            labels, pseudo = make_targets(scores, harden=self.hard, mask=sure)
            step.publish_pseudo_labels(task, pseudo)
            values = step.classify("unlabeled/strong", task, "pseudo", labels)
            step.term(
                step.term_name(self.key, task), values, weight=weight, mask=pseudo.mask, task=task
            )


class Told(nn.Module):
    """What the teacher said of every sample: a table [rows, C] a task. known: whether it has
    spoken. taken: positions in the unlabeled part, a function of the table."""

    taken: Tensor | None = None

    def __init__(self, classes: Mapping[str, int], rows: int):
        super().__init__()
        self.register_buffer("spoken", torch.zeros((), dtype=torch.bool))
        for task, count in classes.items():
            self.register_buffer(f"of_{task}", torch.zeros(rows, count))

    @property
    def known(self) -> bool:
        return bool(self.get_buffer("spoken"))

    def write(self, values: Mapping[str, Tensor]) -> None:
        for task, value in values.items():
            self[task].copy_(value)
        self.get_buffer("spoken").fill_(True)

    def __getitem__(self, task: str) -> Tensor:
        return self.get_buffer(f"of_{task}")


class Chosen:
    """An order over some samples, each as often as it is named."""

    def __init__(self, samples: Tensor, order: Order):
        self.samples = samples
        self.order = order

    def take(self, start: int, stop: int) -> Tensor:
        return self.samples[self.order.take(start, stop)]


def taken(q: Tensor, threshold: float, per_class: int | None, source: torch.Generator) -> Tensor:
    """Positions of the student's unlabeled samples, with repetitions: of every class of argmax q
    [M, C] that has samples with max q ≥ threshold the `per_class` surest, repeated where they are
    fewer; None: as many as the largest class has; 0: all of them, once."""
    sure, classes = q.max(1)
    kept = [((classes == c) & (sure >= threshold)).nonzero().flatten() for c in range(q.shape[1])]
    kept = [rows[sure[rows].argsort(descending=True, stable=True)] for rows in kept if len(rows)]
    if not kept:
        return torch.empty(0, dtype=torch.int64)
    if per_class == 0:
        return torch.cat(kept)
    count = per_class or max(map(len, kept))
    return torch.cat([repeated(rows, count, source) for rows in kept])


def repeated(rows: Tensor, count: int, source: torch.Generator) -> Tensor:
    """The first `count` of rows; of fewer, whole rounds of all of them and a random part for the
    rest."""
    rounds, rest = divmod(count, len(rows))
    if not rounds:
        return rows[:count]
    return torch.cat(
        [rows.repeat(rounds), rows[torch.randperm(len(rows), generator=source)[:rest]]]
    )


def evaluated(context: Context) -> Callable[[Any, Tensor], Mapping[str, Tensor]]:
    """The recipe's own reported network in evaluation mode, for as long as it is asked."""

    def speak(view: Any, index: Tensor) -> Mapping[str, Tensor]:
        training = [module for module in context.modules() if module.training]
        context.eval()
        try:
            return context.predict_logits(view, index=index)
        finally:
            for module in training:
                module.training = True

    return speak
