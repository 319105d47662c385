"""DivideMix. Li, Socher and Hoi, DivideMix: Learning with Noisy Labels as Semi-supervised Learning,
ICLR 2020, arXiv 2002.07394."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.samplers import Order
from foundation.types import Count, Scale, Share, Weight
from methods.mixing import at_least_half, blend, blend_embedded, draw_mixing
from methods.semi_supervised.consistency import entropy, squared_distance
from methods.semi_supervised.division import FIRST, KEPT, OTHER, REST, SECOND, Divided, Division
from methods.semi_supervised.mixmatch import rows
from methods.semi_supervised.targets import TINY, scores_of, sharpen, soft_targets
from recipes.contract import (
    Clock,
    Context,
    Declaration,
    Method,
    Seen,
    StreamRequest,
    Survey,
    Table,
    Twin,
)
from recipes.step import Embedded, Input, Step, Targets
from recipes.step.criterion import cross_entropy, one_hot
from recipes.step.forward import concatenate
from recipes.step.ramps import Ramp

VIEWS = ("weak", "weak2")


class DivideMix(Method):
    """For data whose labels are partly wrong. Two networks learn all labels for a while; then,
    after every pass, each divides the samples for the other. A mixture of two normal
    distributions on its losses gives the probability w that a label is right: samples with w > τ
    keep their labels, the others are unlabeled. Both are mixed as in MixMatch:

        kept:  q = sharpen(w y + (1-w) mean of the network's two predictions, T)
        rest:  q = sharpen(mean of both networks' two predictions, T)
        L = CE(kept, mixed) + λ r(t) · mean (1/C) ‖q' - p‖² (rest, mixed) + Σ_c π_c log(π_c / p̄_c)

    with one λ' = max(λ, 1-λ), λ ~ Beta(α, α) a batch, π = 1/C and p̄ the mean prediction. Both
    networks answer together. Predictions behind q come from forwards in training mode that do not
    update batch-norm statistics.

    Ours: both networks train in one step, where the authors train one for an epoch and then the
    other. If no sample is left unlabeled, only the kept ones are mixed. With several tasks a sample
    is divided by the sum of its losses. With several ranks, partners come from the same rank.

    warmup: share of the run in which all labels are learned, 0 to 1; 0.2 (ours, so that a short run
        knows enough for its first division; paper on CIFAR-10: 10 of 300 epochs, CIFAR-100: 30).
    warmup_penalty: weight of -H(p) in that time, at least 0; 0; 1 for asymmetric noise (paper).
    threshold: τ, the probability above which a label is kept, 0 to 1; 0.5 (paper; 0.6 at 90 %
        noise).
    history: divisions whose losses are averaged, at least 1; 1 (paper; 5 at 90 % noise).
    passes: passes over the labeled samples from one division to the next, above 0; 1 (paper).
    weight: largest weight λ of the loss on the rest, at least 0; 25 (authors' code). Paper on
        CIFAR-10: 0 at 20 % noise, 25 at 50 %, 50 at 90 %; on CIFAR-100 25, and 150 from 50 % on.
    ramp: share of the run in which it grows linearly after the warm-up, 0 to 1; 0.05 (paper: 16 of
        300 epochs).
    penalty: weight of the penalty for unequal classes, at least 0; 1 (paper).
    temperature: T of the sharpening, above 0; 0.5 (paper).
    alpha: α of the Beta distribution, above 0; 4 (paper).
    answer: the sum of both networks' `logits` (authors' code) or the mean of their `probabilities`.
    """

    def __init__(
        self,
        warmup: Share = 0.2,
        warmup_penalty: Weight = 0.0,
        threshold: Share = 0.5,
        history: Count = 1,
        passes: Scale = 1.0,
        weight: Weight = 25.0,
        ramp: Share = 0.05,
        penalty: Weight = 1.0,
        temperature: Scale = 0.5,
        alpha: Annotated[float, Field(gt=0)] = 4.0,
        answer: Literal["logits", "probabilities"] = "logits",
    ):
        self.warmup = warmup
        self.warmup_penalty = warmup_penalty
        self.threshold = threshold
        self.history = history
        self.weight = weight
        self.ramp = Ramp("linear", start=warmup, end=min(warmup + ramp, 1.0))
        self.penalty = penalty
        self.temperature = temperature
        self.alpha = alpha
        self.answer = answer
        self.when = Clock.every_pass("labeled", passes, first=warmup if warmup < 1 else 10**12)
        # the registered module, for `_order`, which gets no context
        self._division: Division | None = None

    def declare(self) -> Declaration:
        streams = [*KEPT.values(), *REST.values()]
        return Declaration(
            views=dict.fromkeys(streams, VIEWS),
            streams={name: StreamRequest("labeled") for name in streams if name != "labeled"},
            orders=dict.fromkeys(streams, self._order),
            networks={SECOND: Twin()},
            surveys=tuple(
                Survey(network, "labeled", losses_of, self.when, network=network)
                for network in (FIRST, SECOND)
            ),
            slots=("mixer", "unlabeled_mixer", "pseudo_labels", "sampler"),
            tags=("mixes_inputs", "soft_targets", "unlabeled_loss"),
            lower_on_collapse=("weight",),
            ddp_exact=False,
            ddp_difference="samples mix with partners on their own rank",
        )

    def build(self, context: Context) -> None:
        kept, whole = context.sizes["labeled"], context.sizes["unlabeled"]
        self._division = Division(kept, whole, self.history, self.threshold)
        context.method_modules[self.key] = self._division

    # -- the division ------------------------------------------------------------------------------
    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        self.module(context).put(survey.network, table["index"], table["loss"])

    def _order(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        size = len(next(iter(targets.values())))
        return Divided(lambda: self._division, size, seed, stream)

    def divided(self, step: Step) -> bool:
        """Whether the warm-up is over."""
        return step.progress.step >= self.when.first_step(step.progress.total)

    # -- in a step ---------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        if not self.divided(step):
            stream = step.streams[KEPT[SECOND]]
            embedded = step.embedding(stream.name, "weak", SECOND)
            step.add(Input(SECOND, embedded, dict(stream.targets), network=SECOND))
            return
        for network in (FIRST, SECOND):
            self.mix(network, step, context)

    def mix(self, network: str, step: Step, context: Context) -> None:
        """Add the mixed inputs of a network."""
        kept, rest = step.streams[KEPT[network]], step.streams[REST[network]]
        division = self.module(context)
        with_rest = division.has_rest(OTHER[network])
        streams = [kept.name, *([rest.name] if with_rest else [])]
        views = [step.embedding(name, view, network) for name in streams for view in VIEWS]
        own = self.predictions(views, network, context)
        others: dict[str, Tensor] = {}
        if with_rest:
            theirs = [step.embedding(rest.name, view, OTHER[network]) for view in VIEWS]
            others = self.predictions(theirs, OTHER[network], context)
        w = division.of(OTHER[network], kept.index).unsqueeze(1)
        labels: Targets = {}
        for task in step.tasks:
            y = one_hot(kept.targets[task], own[task].shape[-1])
            # a sample may have labels of some tasks only
            right = w * y.sum(1, keepdim=True)
            q = [refined(right, y, own[task][:2].mean(0), self.temperature)] * 2
            if with_rest:
                guess = torch.cat([own[task][2:], others[task]]).mean(0)
                q += [sharpen(scores_of(guess), self.temperature)] * 2
            labels[task] = torch.cat(q)
        self.place(network, concatenate(views), labels, 2 * kept.size, step)

    @torch.no_grad()
    def predictions(
        self, views: Sequence[Embedded], network: str, context: Context
    ) -> dict[str, Tensor]:
        """Probabilities [views, B, C] by task."""
        logits = context.extra_forward(concatenate(list(views)), network).logits
        found = {}
        for task in context.tasks:
            found[task] = torch.stack(soft_targets(logits[task]).chunk(len(views)))
        return found

    def place(self, network: str, pool: Embedded, labels: Targets, kept: int, step: Step) -> None:
        """Mix the pool. Its first `kept` rows are the labeled input of a network, the others an
        input of their own."""
        size = len(pool.x)
        key = f"{self.key}/{network}"
        share, partner = draw_mixing(step, key, size, self.alpha, per_sample=False)
        share = at_least_half(share)
        mixed = blend_embedded(pool, partner, share)
        targets = {task: blend(q, q[partner], share) for task, q in labels.items()}
        labeled = rows(mixed, targets, slice(kept))
        if network == FIRST:
            step.change("labeled", embedded=labeled[0], targets=labeled[1])
        else:
            step.add(Input(SECOND, *labeled, network=SECOND))
        if size > kept:
            rest = rows(mixed, targets, slice(kept, None))
            step.add(Input(f"{network}/rest", *rest, network=network))

    def terms(self, step: Step, context: Context) -> None:
        divided = self.divided(step)
        for task in step.tasks:
            name = step.term_name(f"{self.key}/{SECOND}", task)
            step.term(name, step.classify(SECOND, task, "labeled"), task=task)
            for network, labeled in ((FIRST, "labeled"), (SECOND, SECOND)):
                if divided:
                    self.mixed_terms(network, labeled, task, step)
                elif self.warmup_penalty:
                    values = -entropy(step.logits(labeled, task))
                    name = step.term_name(f"{self.key}/confidence_{network}", task)
                    step.term(name, values, weight=self.warmup_penalty, task=task)
        for network in (FIRST, SECOND) if divided else ():
            share = self.module(context).share(network)
            value = torch.full((), share, device=context.device)
            step.scalar(f"{self.key}/kept_by_{network}", value)

    def mixed_terms(self, network: str, labeled: str, task: str, step: Step) -> None:
        logits = [step.logits(labeled, task)]
        rest = f"{network}/rest"
        if rest in step.inputs:
            logits.append(step.logits(rest, task))
            target = step.inputs[rest].targets[task]
            values = squared_distance(torch.softmax(logits[-1], dim=1), target)
            weight = self.weight * self.ramp(step.progress)
            name = step.term_name(f"{self.key}/rest_{network}", task)
            step.term(name, values, weight=weight, task=task)
        if self.penalty:
            value = balance_penalty(torch.softmax(torch.cat(logits), dim=1))
            name = step.term_name(f"{self.key}/balance_{network}", task)
            step.term(name, value, weight=self.penalty, task=task)

    # -- evaluation --------------------------------------------------------------------------------
    def vote(self, logits: Sequence[Tensor], task: str, context: Context) -> Tensor:
        if self.answer == "logits":
            return torch.stack(list(logits)).sum(0)
        return torch.stack([torch.softmax(z, dim=1) for z in logits]).mean(0).log()


def losses_of(seen: Seen) -> dict[str, Tensor]:
    """The cross-entropy [B] with the given labels, summed over tasks; -1 without any label."""
    losses = [cross_entropy(seen.logits[task].float(), t) for task, t in seen.targets.items()]
    known = torch.stack([target >= 0 for target in seen.targets.values()]).any(0)
    total = torch.stack(losses).sum(0)
    return {"loss": torch.where(known, total, -torch.ones_like(total))}


@torch.no_grad()
def refined(w: Tensor, y: Tensor, p: Tensor, temperature: float) -> Tensor:
    """sharpen(w y + (1-w) p, T), [N, C]. w: [N, 1]."""
    return sharpen(scores_of(w * y + (1 - w) * p), temperature)


def balance_penalty(p: Tensor) -> Tensor:
    """KL(π ‖ p̄) = Σ_c π_c log(π_c / p̄_c), π_c = 1/C, p̄ the mean of p [N, C]."""
    mean = p.mean(0).clamp_min(TINY)
    share = 1.0 / p.shape[1]
    return -share * (mean / share).log().sum()
