"""Robust accuracy: the reported network under attack, added to any recipe by
`evaluate.attack=NAME`.

Denominators, worst cases and alarms after Carlini et al., On Evaluating Adversarial Robustness,
2019, arXiv 1902.06705, and Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of
Security, ICML 2018, arXiv 1802.00420.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from foundation.distributed import global_sum
from foundation.randomness import RowNumbers, SampleRandomness
from methods.adversarial.attacks.losses import (
    Loss,
    Objective,
    check_loss,
    fixed,
    input_gradient,
    objective,
)
from methods.adversarial.attacks.threat import Norm, Threat, radius
from recipes.contract import Context, Probe
from recipes.contract.composition import Composition
from recipes.contract.exhibit import Exhibit, Shown
from recipes.step import Embedded
from recipes.step.criterion import cross_entropy

Draws = Callable[[str], RowNumbers]
VANISHING = "vanishing_gradients"
METRICS = ("clean_accuracy", "robust_accuracy", "robust_loss", VANISHING)
ALARM = 0.1  # share of vanishing gradients above which a warning is printed

EXAMPLES = 6  # of attacked samples in the report


class Victim:
    """What an attacker can query: the reported network with its inference-time changes, in float32,
    on a fixed batch of samples.

    x: [N, ...]. targets: by task. draw: the attacker's random numbers by purpose.
    """

    def __init__(
        self, context: Context, embedded: Embedded, targets: dict[str, Tensor], index: Tensor
    ):
        self.context = context
        self.x = embedded.x
        self.mask = embedded.mask
        self.targets = targets
        self.index = index
        self.draw: Draws = SampleRandomness(context.seed, index).draw

    def logits(self, x: Tensor) -> dict[str, Tensor]:
        """Logits by task as the evaluation computes them."""
        return self.context.predict(Embedded(x, self.mask), index=self.index)

    def objective(self, loss: Loss, draws: int = 1) -> Objective:
        """The loss that the attack raises. draws above 1: its mean over random draws of the network
        (expectation over transformation); every call draws anew, since an attacker cannot know the
        draws of the evaluation."""
        if draws == 1:
            return objective(self.logits, self.targets, loss)
        seeds = count(self.context.seed + 1)

        def expected(x: Tensor) -> Tensor:
            values = []
            for seed in islice(seeds, draws):
                randomness = SampleRandomness(seed, self.index)
                model = partial(self._drawn, randomness=randomness)
                values.append(objective(model, self.targets, loss)(x))
            return torch.stack(values).mean(0)

        return expected

    def among(self, rows: Tensor) -> "Victim":
        """The victim restricted to these samples. rows: int64 [n]."""
        mask = None if self.mask is None else self.mask[rows]
        targets = {task: target[rows] for task, target in self.targets.items()}
        return Victim(self.context, Embedded(self.x[rows], mask), targets, self.index[rows])

    def _drawn(self, x: Tensor, randomness: SampleRandomness) -> dict[str, Tensor]:
        return self.context.predict(Embedded(x, self.mask), randomness=randomness)


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

    def build(self, context: Context) -> None:
        check_loss("evaluate.attack", self.loss, context.tasks)

    def describe(self) -> str:
        norm = {"linf": "l∞", "l2": "l2"}[self.norm]
        words = [f"{type(self).__name__.removesuffix('Robustness')}, {norm} radius {self.eps:.4g}"]
        for name in ("steps", "queries", "step_size", "restarts"):
            value = getattr(self, name, None)
            if value is not None:
                words.append(f"{name.replace('_', ' ')} {value:.4g}")
        words.append(f"loss {self.loss}" if self.by_gradient else "margin loss")
        count = "all samples" if self.samples is None else f"the first {self.samples} samples"
        return (
            f"{', '.join(words)}, {count} of the test part; clean_accuracy is of the same samples"
        )

    def exhibit(self) -> Exhibit | None:
        note = (
            "The clean sample, the change by the attack (grey: none; scaled to its largest value) "
            "and the attacked sample, with the predicted class. Marked: right or wrong."
        )
        return Exhibit("Attacked samples", note, self.examples) if self.examples else None

    @abstractmethod
    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
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
            batch = Victim(context, Embedded(x.detach().float(), mask), targets, index)
            self.measure(batch.among(rows))

    def measure(self, victim: Victim) -> None:
        """Attack the samples, and add their values to the sums of each task."""
        threat = Threat.around(Embedded(victim.x, victim.mask), self.norm, self.eps)
        vanishing = victim.x.new_zeros(len(victim.x))
        if self.by_gradient:
            gradient = input_gradient(victim.objective(self.loss, self.draws), victim.x)
            direction = threat.direction(gradient)
            vanishing = (direction.flatten(1).abs().amax(1) == 0).float()
        points = [victim.x]
        for restart in range(self.restarts):
            draw = partial(_draw_at, victim.draw, restart)
            points.append(self.attack(victim, threat, draw))
        logits = [victim.logits(point) for point in points]
        if not self.examples and victim.mask is None:
            self.examples = attacked_examples(victim, points, logits)
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

    def compute(self) -> dict[str, Tensor]:
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


def attacked_examples(
    victim: Victim, points: list[Tensor], logits: list[dict[str, Tensor]]
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
