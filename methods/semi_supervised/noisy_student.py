"""Noisy Student. Xie, Luong, Hovy and Le, Self-training with Noisy Student improves ImageNet
classification, CVPR 2020, arXiv 1911.04252."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from datamodules.samplers import LiveOrder, Order, ShuffledPasses
from foundation.errors import UserError, nearest
from foundation.randomness import generator
from methods.semi_supervised.targets import confident, make_targets, scores_of
from recipes.contract import Clock, Context, Declaration, Method, Seen, Survey, Table
from recipes.predict.references import reference
from recipes.services.tables import SampleTables
from recipes.step import Step

UnlabeledWeight = Literal["one", "ratio", "share"]
TEACHER = "teacher_run"


class NoisyStudent(Method):
    """L = CE(labels) + λ · (1/U) Σ_u H(q_u, p(strong(u))), q_u = softmax(z_teacher(u) / T),
    predicted once by a teacher without noise: evaluation mode, EMA weights if it has them, no
    augmentation.

    Of every predicted class, the `per_class` most confident samples with max q ≥ threshold are
    selected; a class with fewer samples repeats them, all of them in whole rounds and a random
    subset for the remainder, so that all classes are equally frequent. The selection is the
    student's unlabeled stream. The table (samples × C, one per task, float32; above 512 MiB float16
    on the host) is part of the
    checkpoint: a resumed run does not evaluate the teacher again.

    The student's noise is the strong view and the network's own (`network.drop_rate`). Ours:
    labeled samples have their weak view, where the paper adds noise as well. Raises UserError if
    the teacher's classes differ, or if no sample is confident.

    teacher: folder or checkpoint of the teacher's run; `{NAME}`: that of stage NAME; null: the
        network as the run starts. The teacher has the same classes and any architecture; null is
        distillation from itself.
    threshold: smallest confidence of a selected sample, 0 to 1; 0.3 (paper).
    per_class: samples selected of each predicted class; null: the size of the largest; 0: no
        balancing. The paper selects 130,000.
    hard: learn the most probable class alone; false: soft labels (better, paper).
    temperature: T of the teacher's softmax, above 0; 1 (paper).
    unlabeled_weight: weight λ: `one` (paper), `ratio` U/B (authors' code) or `share` U/(B + U). The
        authors' code divides the sum over both by the labeled batch.
    task: task whose predicted classes are balanced; null: the first.
    """

    neutral = {"per_class": 0}

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
        # the registered module, for `_order`, which gets no context
        self._table: TeacherPredictions | None = None

    def declare(self) -> Declaration:
        networks = {}
        if self.teacher is not None:
            networks[TEACHER] = reference(self.teacher, f"methods.{self.key}.teacher")
        answers = Survey(
            "teacher",
            "unlabeled",
            self._probabilities,
            Clock.at_start(),
            network="reported" if self.teacher is None else TEACHER,
        )
        return Declaration(
            views={"unlabeled": ("strong",)},
            slots=("pseudo_labels",),
            tags=("unlabeled_loss",),
            orders={"unlabeled": self._order},
            networks=networks,
            surveys=(answers,),
        )

    def build(self, context: Context) -> None:
        task = self.task or next(iter(context.tasks))
        if task not in context.tasks:
            raise UserError(f"methods.{self.key}.task={task}: {nearest(task, context.tasks)}")
        classes = {name: task.outputs for name, task in context.tasks.items()}
        self._table = TeacherPredictions(classes, context.sizes["unlabeled"], context.seed)
        context.method_modules[self.key] = self._table

    # -- before the first step ---------------------------------------------------------------------
    def _probabilities(self, seen: Seen) -> dict[str, Tensor]:
        return {
            task: torch.softmax(seen.logits[task].float() / self.temperature, 1)
            for task in seen.targets
        }

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        predictions: TeacherPredictions = self.module(context)
        predictions.write({task: q for task, q in table.items() if task != "index"})
        if self.teacher is not None:
            context.networks.forget(TEACHER)
        if not len(self._selected()):
            q = predictions[self.task or next(iter(context.tasks))]
            raise UserError(
                f"methods.{self.key}.threshold={self.threshold}: none of the teacher's predictions "
                f"for {len(q)} samples is that confident; the largest probability is "
                f"{float(q.max()):.3f}"
            )

    def _selected(self) -> Tensor:
        """Positions of the student's samples, a function of the table, which a checkpoint has."""
        table = self._table
        assert table is not None
        if table.selected is None:
            q = table[self.task or next(iter(table.classes))].cpu()
            source = generator(table.seed, self.key)
            table.selected = select_balanced(q, self.threshold, self.per_class, source)
        return table.selected

    def _order(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        def newest() -> Order:
            selected = self._selected()
            return Selected(selected, ShuffledPasses(len(selected), seed, stream))

        return LiveOrder(cache(newest))

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "strong")

    def terms(self, step: Step, context: Context) -> None:
        stream = step.streams["unlabeled"]
        ratio = stream.size / step.streams["labeled"].size
        weight = {"one": 1.0, "ratio": ratio, "share": ratio / (1 + ratio)}[self.unlabeled_weight]
        mask = partial(confident, threshold=self.threshold)
        for task in step.tasks:
            scores = scores_of(context.method_modules[self.key].read(task, stream.index))
            labels, pseudo = make_targets(scores, harden=self.hard, mask=mask)
            step.publish_pseudo_labels(task, pseudo)
            values = step.classify("unlabeled/strong", task, "pseudo", labels)
            step.term(
                step.term_name(self.key, task), values, weight=weight, mask=pseudo.mask, task=task
            )


class TeacherPredictions(SampleTables):
    """The teacher's probabilities of every unlabeled sample, a table [rows, C] per task.

    known: whether the table has been written.
    selected: positions of the student's samples in the unlabeled part, a function of the table.
    """

    selected: Tensor | None = None

    def __init__(self, classes: Mapping[str, int], rows: int, seed: int = 0):
        super().__init__()
        self.classes = classes
        self.seed = seed
        # the names of both buffers are in the checkpoints of earlier versions
        self.register_buffer("spoken", torch.zeros((), dtype=torch.bool))
        for task, count in classes.items():
            self.add_table(f"of_{task}", (rows, count))

    @property
    def known(self) -> bool:
        return bool(self.get_buffer("spoken"))

    def write(self, values: Mapping[str, Tensor]) -> None:
        for task, value in values.items():
            self[task].copy_(value)
        self.get_buffer("spoken").fill_(True)
        self.selected = None

    def read(self, task: str, index: Tensor) -> Tensor:
        """[N, C] for the samples `index` [N]."""
        return self.table_rows(f"of_{task}", index)

    def __getitem__(self, task: str) -> Tensor:
        return cast(Tensor, getattr(self, f"of_{task}"))


class Selected:
    """An order over some samples, each as often as it is listed."""

    def __init__(self, samples: Tensor, order: Order):
        self.samples = samples
        self.order = order

    def take(self, start: int, stop: int) -> Tensor:
        return self.samples[self.order.take(start, stop)]


def select_balanced(
    q: Tensor, threshold: float, per_class: int | None, source: torch.Generator
) -> Tensor:
    """Positions of the student's unlabeled samples, with repetitions: of every class of argmax q
    the `per_class` most confident samples with max q ≥ threshold, repeated where there are fewer.

    q: [M, C]. per_class: None: the size of the largest class; 0: all of them, once.
    """
    confidence, labels = q.max(1)
    order = confidence.argsort(descending=True, stable=True)
    order = order[confidence[order] >= threshold]
    order = order[labels[order].argsort(stable=True)]
    if not len(order):
        return torch.empty(0, dtype=torch.int64)
    sizes = labels[order].unique_consecutive(return_counts=True)[1]
    by_class = order.split(sizes.tolist())
    if per_class == 0:
        return torch.cat(by_class)
    count = per_class or max(map(len, by_class))
    return torch.cat([repeat_to(count, rows, source) for rows in by_class])


def repeat_to(count: int, rows: Tensor, source: torch.Generator) -> Tensor:
    """The first `count` rows; if there are fewer, all of them in whole rounds and a random subset
    for the remainder."""
    rounds, remainder = divmod(count, len(rows))
    if not rounds:
        return rows[:count]
    subset = torch.randperm(len(rows), generator=source)[:remainder]
    return torch.cat([rows.repeat(rounds), rows[subset]])
