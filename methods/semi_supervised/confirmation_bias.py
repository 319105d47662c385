"""Pseudo-labeling against confirmation bias. Arazo, Ortego, Albert, O'Connor and McGuinness,
Pseudo-Labeling and Confirmation Bias in Deep Semi-Supervised Learning, IJCNN 2020, arXiv
1908.02983."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.distributed import gather_with_gradient
from foundation.types import Scale, StepsOrShare, Weight
from methods.mixing import blend, blend_embedded, dense_targets, draw_mixing
from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.given_labels import (
    LABELS,
    LABELS_SURVEY,
    check_warmup,
    in_warmup,
    share_of_batch,
)
from methods.semi_supervised.mixmatch import rows
from recipes.contract import Clock, Context, Declaration, Method, Seen, Survey, Table
from recipes.services.statistics import SampleMemory
from recipes.step import Embedded, Input, PseudoLabels, Step, Targets
from recipes.step.batchnorm import batch_normalizations
from recipes.step.criterion import Role, label_mass, one_hot
from recipes.step.forward import concatenate

PREDICTIONS = "predictions"


def balance(log_p: Tensor, log_prior: Tensor) -> Tensor:
    """R_A = KL(π ‖ h̄) = Σ_c π_c (log π_c - log h̄_c) with h̄ = (1/N) Σ_i p_i: 0 where the mean
    prediction is the prior.

    log_p: [N, C] log-softmax values; log h̄ is their logsumexp, which does not underflow. log_prior:
    [C].
    """
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(log_p))
    return (log_prior.exp() * (log_prior - log_mean)).sum()


def predictions_of(seen: Seen) -> dict[str, Tensor]:
    """q [B, C] by task."""
    return {task: torch.softmax(seen.logits[task].float(), 1) for task in seen.targets}


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """All modules but those that use statistics of the batch are in evaluation mode."""
    kept = set(map(id, batch_normalizations(network)))
    training = [m for m in network.modules() if m.training and id(m) not in kept]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class ConfirmationBias(Method):
    """L = (1/N) Σ_i CE(ỹ'_i, f(x'_i)) + λ_A KL(π ‖ (1/N) Σ_i p_i) + λ_H (1/N) Σ_i H(p_i): soft
    pseudo-labels ỹ of one pass before, mixed with the labels.

    The N = B + U samples of a batch are one pool: x' = λ x_i + (1-λ) x_j and ỹ' alike, one λ ~
    Beta(α, α) a batch. Mixing lowers the confidence in wrong labels; the second term, R_A, keeps
    predictions from falling to few classes, the third, R_H, from staying undecided. ỹ is a table of
    all training samples: one-hot rows for labeled ones, else the prediction for the unaugmented
    sample at its last visit. It is made by an extra forward without gradient and without dropout,
    normalized by statistics of the batch, which are not updated (in the authors' code they are). A
    row is replaced right after the visit: in passes over all samples this is the authors'
    replacement at the end of an epoch. After `warmup` on labels alone, the network labels all
    samples once, in evaluation mode.

    The least number of labeled samples in a batch is data.batch_size, and data.unlabeled_ratio adds
    the others (paper: 16 of 100). The table (4 bytes × samples × classes) is part of the
    checkpoint. With several ranks, partners come from the same rank, and R_A is over all. The
    paper's average of weights at the end (SWA) is left to averaging=ema.

    alpha: α of the Beta distribution of λ, above 0; 1 (authors' scripts).
    balance_weight: λ_A, at least 0; 0.8 (paper).
    entropy_weight: λ_H, at least 0; 0.4 (paper).
    prior: π of R_A: `uniform` (paper), or `labels`, the class frequencies of the labels. These are
        for a long tail.
    warmup: optimizer steps on labels alone, below 1 a share of the run; 0.025 (paper: 10 of 400
        epochs).
    """

    def __init__(
        self,
        alpha: Scale = 1.0,
        balance_weight: Weight = 0.8,
        entropy_weight: Weight = 0.4,
        prior: Literal["uniform", "labels"] = "uniform",
        warmup: StepsOrShare = 0.025,
    ):
        self.alpha = alpha
        self.balance_weight = balance_weight
        self.entropy_weight = entropy_weight
        self.prior = prior
        self.warmup = warmup
        self.clock = Clock.once(warmup)

    def declare(self) -> Declaration:
        slots = ["mixer", "unlabeled_mixer", "pseudo_labels", "predicted_labels"]
        if self.balance_weight and self.prior == "uniform":
            slots.append("prior_correction")
        predictions = Survey(
            PREDICTIONS, "unlabeled", predictions_of, self.clock, network="student"
        )
        return Declaration(
            views={"unlabeled": ("raw", "weak")},
            surveys=(LABELS_SURVEY, predictions),
            slots=tuple(slots),
            tags=("mixes_inputs", "soft_targets", "unlabeled_loss"),
            lower_on_collapse=("entropy_weight",),
            ddp_exact=False,
            ddp_difference="samples mix with partners on their own rank",
        )

    def build(self, context: Context) -> None:
        check_warmup(self.key, self.clock, context.total_steps)
        samples = context.sizes["unlabeled"]
        tables = {name: SoftLabels(samples, task.outputs) for name, task in context.tasks.items()}
        context.method_modules[self.key] = nn.ModuleDict(tables)

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        for task, labels in self.module(context).items():
            write = labels.give if survey.name == LABELS else labels.start
            write(table["index"], table[task])

    # -- every batch -------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        if in_warmup(self.clock, step):
            return
        labeled = step.inputs["labeled"]
        weak = step.embedding("unlabeled", "weak")
        if not step.replay:
            # made outside, where it has a graph: other methods share it
            raw = step.embedding("unlabeled", "raw")
            step.scratch[self.key] = self.predictions(raw, context)
        pool = concatenate([labeled.embedded, weak])
        share, partner = draw_mixing(step, self.key, len(pool.x), self.alpha, per_sample=False)
        targets = {
            task: blend(y, y[partner], share) for task, y in self.targets(step, context).items()
        }
        mixed = blend_embedded(pool, partner, share)
        embedded, own = rows(mixed, targets, slice(labeled.size))
        step.change("labeled", embedded=embedded, targets=own)
        others = rows(mixed, targets, slice(labeled.size, None))
        step.add(Input(f"{self.key}/unlabeled", *others))

    @torch.no_grad()
    def predictions(self, embedded: Embedded, context: Context) -> Targets:
        """q [U, C] by task of these samples."""
        with without_dropout(context.network):
            output = context.extra_forward(embedded)
        return {task: torch.softmax(output.logits[task].float(), 1) for task in context.tasks}

    def targets(self, step: Step, context: Context) -> Targets:
        """ỹ [B + U, C] by task: given labels, and where there is none the table."""
        entry = step.inputs["labeled"]
        found = {}
        for task, known in dense_targets(entry.targets, context).items():
            labels: SoftLabels = self.module(context)[task]
            stored = labels.read(step.streams["labeled"].index)
            own = torch.where(label_mass(known)[:, None] > 0, known, stored)
            others = labels.read(step.streams["unlabeled"].index)
            pseudo = PseudoLabels(others, others.argmax(1), torch.ones_like(others[:, 0]))
            step.publish_pseudo_labels(task, pseudo)
            found[task] = torch.cat([own, others])
        return found

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        """The mean is over the whole batch: labels count by their share of it."""
        if role != "labeled" or in_warmup(self.clock, step):
            return None
        return logits.new_full((len(logits),), share_of_batch(step, "labeled"))

    def terms(self, step: Step, context: Context) -> None:
        if in_warmup(self.clock, step):
            return
        name = f"{self.key}/unlabeled"
        weight = share_of_batch(step, "unlabeled")
        for task in step.tasks:
            values = step.classify(name, task, "pseudo")
            step.term(step.term_name(self.key, task), values, weight=weight, task=task)
            logits = torch.cat([step.logits("labeled", task), step.logits(name, task)])
            if self.balance_weight:
                log_p = gather_with_gradient(F.log_softmax(logits, dim=1))
                value = balance(log_p, self.log_prior(task, context))
                term = step.term_name(f"{self.key}/balance", task)
                step.term(term, value, weight=self.balance_weight, task=task)
            if self.entropy_weight:
                term = step.term_name(f"{self.key}/entropy", task)
                step.term(term, entropy(logits), weight=self.entropy_weight, task=task)

    def log_prior(self, task: str, context: Context) -> Tensor:
        """log π [C]."""
        log_prior = context.statistics.log_prior(task)
        if self.prior == "uniform":
            log_prior = torch.zeros_like(log_prior)
        return torch.log_softmax(log_prior, 0)

    def after_batch(self, step: Step, context: Context) -> None:
        index = step.streams["unlabeled"].index
        for task, q in step.scratch.get(self.key, {}).items():
            self.module(context)[task].replace(index, q)


class SoftLabels(SampleMemory):
    """The soft labels ỹ [M, C] of all training samples for one task; `given` [M]: not predicted."""

    given: Tensor

    def __init__(self, samples: int, classes: int):
        super().__init__(samples, (classes,))
        self.classes = classes
        self.register_buffer("given", torch.zeros(samples, dtype=torch.bool))

    def give(self, index: Tensor, target: Tensor) -> None:
        """Write the labels [L] of labeled samples, -1 for none."""
        known = target >= 0
        rows = one_hot(target[known], self.classes)
        self.put(index[known], rows)
        self.given[index[known].to(self.given.device)] = True

    def start(self, index: Tensor, q: Tensor) -> None:
        """Write the first predictions [M, C], where no label is given."""
        others = ~self.given.to(index.device)[index]
        self.put(index[others], q[others])

    def put(self, index: Tensor, rows: Tensor) -> None:
        # a large table is on the host: its rows do not pass the device
        place = self.table.device
        self.put_rows("table", index.to(place), rows.to(place))

    def replace(self, index: Tensor, q: Tensor) -> None:
        """Write the predictions [N, C] of this rank's samples, where no label is given."""
        self.write(index, q, where=~self.given[index])
