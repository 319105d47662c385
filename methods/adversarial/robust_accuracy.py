"""Robust accuracy: the reported network under attack, added to any recipe by
`evaluate.attack=NAME`.

Denominators, worst cases and alarms after Carlini et al., On Evaluating Adversarial Robustness,
2019, arXiv 1902.06705, and Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of
Security, ICML 2018, arXiv 1802.00420.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from foundation.distributed import global_sum
from foundation.randomness import RowNumbers
from methods.adversarial.attacks.attack import Draws
from methods.adversarial.attacks.losses import (
    Logits,
    Loss,
    check_loss,
    fixed,
    input_gradient,
)
from methods.adversarial.attacks.threat import Norm, Threat, radius
from methods.adversarial.detection import Detection
from methods.adversarial.reported_victim import ReportedVictim
from recipes.contract import Context, Probe
from recipes.contract.composition import Composition
from recipes.contract.exhibit import Exhibit, Shown
from recipes.step import Embedded
from recipes.step.criterion import cross_entropy

VANISHING = "vanishing_gradients"
METRICS = ("clean_accuracy", "robust_accuracy", "robust_loss", VANISHING)
ALARM = 0.1  # share of vanishing gradients above which a warning is printed

EXAMPLES = 6  # of attacked samples in the report
# settings of an attack that its numbers cannot be read without, in the words of the report
DESCRIBED = ("steps", "queries", "step_size", "momentum", "restarts")


class Robustness(Probe):
    """robust_accuracy = (1/n) Σ_i Π_r [argmax f(x_ir) = y_i], x_i0 the clean sample and x_ir the
    attack's result at restart r.

    Clean errors count as not robust, so it never exceeds clean_accuracy, which is of the same n
    samples. robust_loss: mean over samples of the largest cross-entropy. vanishing_gradients: the
    share of samples where the loss that the attack raises has a gradient that is exactly zero or
    not finite, so that the attack cannot change them: a warning, not a success. With several
    tasks, one value per task and their mean.

    norm: norm of the ball, over all entries of a sample: `linf` or `l2`.
    eps: radius of the ball in pixels of [0, 1], a number or a fraction; 8/255; on texts a length of
        embeddings.
    samples: samples attacked, those with the n smallest indices of the part; null: all.
    """

    parts: ClassVar[tuple[str, ...]] = ("test",)
    restarts = 1
    by_gradient = True
    draws = 1
    loss: Loss = "ce"

    def __init__(self, norm: Norm, eps: float | str, samples: int | None):
        super().__init__()
        self.norm = norm
        self.eps = radius(eps)
        self.samples = samples
        self.sums: dict[str, Tensor] = {}
        self.examples: list[list[Shown]] = []
        self.detection = Detection()

    def build(self, context: Context) -> None:
        check_loss("evaluate.attack", self.loss, context.tasks)

    def describe(self) -> str:
        words = [type(self).__name__.removesuffix("Robustness"), self.ball()]
        for name in DESCRIBED:
            value = getattr(self, name, None)
            if value is not None:
                words.append(f"{name.replace('_', ' ')} {value:.4g}")
        words.append(f"loss {self.loss}" if self.by_gradient else "margin loss")
        count = "all samples" if self.samples is None else f"the first {self.samples} samples"
        return (
            f"{', '.join(words)}, {count} of the test part; clean_accuracy is of the same samples"
        )

    def ball(self) -> str:
        """How far the attack may go, for the report."""
        norm = {"linf": "l∞", "l2": "l2"}[self.norm]
        return f"{norm} radius {self.eps:.4g}"

    def exhibit(self) -> Exhibit | None:
        note = (
            "The clean sample, the change by the attack (grey: none; scaled to its largest value) "
            "and the attacked sample, with the predicted class. Marked: right or wrong."
        )
        return Exhibit("Attacked samples", note, self.examples) if self.examples else None

    @abstractmethod
    def attack(self, victim: ReportedVictim, threat: Threat, draw: Draws) -> Tensor:
        """x_adv of one restart."""

    def refusal(self, composition: Composition) -> str:
        if not self.by_gradient or self.draws > 1:
            return ""
        for key, declaration in composition.declarations.items():
            if "random_inference" in declaration.tags:
                return (
                    f"methods.{key} makes random predictions, and the gradient of one draw "
                    "misleads the attack: average over several, evaluate.attack.draws=10"
                )
        return ""

    def update(
        self, context: Context, view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        if not self.sums:
            self.examples = []
        x, mask, _ = context.reported().embed(view)
        for task in targets:
            self.sums.setdefault(task, torch.zeros(len(METRICS) + 1, device=x.device))
        rows = torch.arange(len(index), device=index.device)
        if self.samples is not None:
            rows = rows[index < self.samples]
        if not len(rows):
            return
        # float32 throughout: a radius of 8/255 is a few steps of bfloat16
        with torch.autocast(x.device.type, enabled=False), fixed(context.reported()):
            embedded = Embedded(x.detach().float(), mask)
            batch = ReportedVictim(context, embedded, targets, index)
            self.measure(batch.among(rows))

    def measure(self, victim: ReportedVictim) -> None:
        """Attack the samples, and add their values to the sums of each task."""
        threat = Threat.around(Embedded(victim.x, victim.mask), self.norm, self.eps)
        vanishing = victim.x.new_zeros(len(victim.x))
        if self.by_gradient:
            gradient = input_gradient(victim.objective(self.loss, self.draws), victim.x)
            direction = threat.direction(gradient)
            vanishing = (direction.flatten(1).abs().amax(1) == 0).float()
        points = [victim.x, *self.points(victim, threat)]
        logits = [victim.logits(point) for point in points]
        if not self.examples and victim.mask is None:
            self.examples = attacked_examples(victim, points, logits)
        self.detection.add(victim, points, successes(victim, logits))
        for task, target in victim.targets.items():
            known = (target >= 0).float()
            losses = torch.stack([cross_entropy(values[task], target) for values in logits])
            # an attack that makes the logits NaN has succeeded
            broken = losses.isnan()
            right = torch.stack([values[task].argmax(1) == target for values in logits])
            right = (right & ~broken).float()
            loss = losses.masked_fill(broken, torch.inf).amax(0)
            # in the order of METRICS, and last the number of samples
            columns = (right[0], right.amin(0), loss, vanishing, torch.ones_like(loss))
            self.sums[task] += torch.stack([(known * values).sum() for values in columns])

    def points(self, victim: ReportedVictim, threat: Threat) -> list[Tensor]:
        """x_adv of every restart."""
        return [self.attack(victim, threat, draw) for draw in self.draws_of(victim)]

    def draws_of(self, victim: ReportedVictim) -> list[Draws]:
        """The random numbers of every restart."""
        return [partial(_draw_at, victim.draw, restart) for restart in range(self.restarts)]

    def compute(self) -> dict[str, Tensor]:
        return self.accuracies() | self.detection.compute()

    def accuracies(self) -> dict[str, Tensor]:
        sums = {task: global_sum(values) for task, values in self.sums.items()}
        ratios = {task: values[:-1] / values[-1].clamp_min(1) for task, values in sums.items()}
        if not ratios:
            return {}
        mean = torch.stack(list(ratios.values())).mean(0)
        metrics = self._named(mean)
        if len(ratios) > 1:
            for task, values in ratios.items():
                metrics |= self._named(values, f"{task}/")
        share = float(metrics.get(VANISHING, 0.0))
        if share > ALARM:
            other = "" if self.loss == "margin" else "evaluate.attack.loss=margin and "
            rank_zero_warn(
                f"the loss {self.loss} has no gradient for {share:.0%} of the samples, so "
                f"robust_accuracy is unreliable; try {other}evaluate.attack=square"
            )
        return metrics

    def _named(self, values: Tensor, prefix: str = "") -> dict[str, Tensor]:
        """Values by name; an attack without gradients has no share of vanishing ones."""
        names = [name for name in METRICS if self.by_gradient or name != VANISHING]
        return {f"{prefix}{name}": values[METRICS.index(name)] for name in names}

    def reset(self) -> None:
        self.sums = {}
        self.detection.reset()


def successes(victim: ReportedVictim, logits: Sequence[Logits]) -> Tensor:
    """bool [R, N], by restart: a task's class was right on the clean sample and is wrong now.
    logits: of the clean samples, then of each restart."""
    found = []
    for task, target in victim.targets.items():
        answers = torch.stack([values[task] for values in logits])
        # an attack that makes the logits NaN has succeeded
        right = (answers.argmax(2) == target) & ~answers.isnan().any(2)
        found.append(right[0] & ~right[1:])
    return torch.stack(found).any(0)


def attacked_examples(
    victim: ReportedVictim, points: list[Tensor], logits: Sequence[Logits]
) -> list[list[Shown]]:
    """The first samples: clean, the change, attacked; of several restarts the one with the largest
    loss. points: the clean samples, then the result of each restart."""
    task, target = next(iter(victim.targets.items()))

    def shown(pixels: Tensor, predicted: int, label: int) -> Shown:
        right = None if label < 0 else predicted == label
        return Shown(pixels=pixels.detach(), task=task, label=predicted, right=right)

    worst = torch.stack([cross_entropy(values[task], target) for values in logits[1:]]).argmax(0)
    rows = []
    for i in range(min(EXAMPLES, len(target))):
        best = 1 + int(worst[i])
        change = points[best][i] - points[0][i]
        scaled = 0.5 + 0.5 * change / change.abs().max().clamp_min(1e-12)
        label = int(target[i])
        before = int(logits[0][task][i].argmax())
        after = int(logits[best][task][i].argmax())
        rows.append(
            [
                shown(points[0][i], before, label),
                Shown(
                    pixels=scaled.detach(),
                    caption=f"change, at most {float(change.abs().max()):.3f}",
                ),
                shown(points[best][i], after, label),
            ]
        )
    return rows


def _draw_at(draw: Draws, restart: int, purpose: str) -> RowNumbers:
    return draw(f"attack/{restart}/{purpose}")
