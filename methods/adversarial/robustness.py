"""Robust accuracy: the reported network under attack, added to any recipe by
`evaluate.attack=NAME`.

Denominators, worst cases and alarms after Carlini et al., On Evaluating Adversarial Robustness,
2019, arXiv 1902.06705, and Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of
Security, ICML 2018, arXiv 1802.00420.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from foundation.distributed import global_sum
from foundation.moved import former_names
from foundation.randomness import RowNumbers, SampleRandomness
from foundation.types import Count
from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.losses import Loss, Objective, fixed, input_gradient, objective
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.square_attack import square_attack
from methods.adversarial.attacks.threat import Norm, Radius, Threat, radius
from recipes.contract import Context, Probe
from recipes.contract.composition import Composition
from recipes.step import Embedded
from recipes.step.criterion import cross_entropy

Draws = Callable[[str], RowNumbers]
FIGURES = ("clean_accuracy", "robust_accuracy", "robust_loss", "vanishing_gradients")
ALARM = 0.1


class Victim:
    """What an attacker has before him: the reported network with its inference-time changes, in
    float32, on samples that keep their places. x: [N, ...]; targets by task; draw: the attacker's
    random numbers by purpose."""

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
        """As they are evaluated."""
        return self.context.predict(Embedded(x, self.mask), index=self.index)

    def objective(self, loss: Loss, draws: int = 1) -> Objective:
        """The loss to raise. draws above 1: its mean over draws of what the network does at random,
        other ones at every call, since an attacker cannot know those of the evaluation (expectation
        over transformation)."""
        if draws == 1:
            return objective(self.logits, self.targets, loss)
        calls = 0

        def expected(x: Tensor) -> Tensor:
            nonlocal calls
            values = []
            for _ in range(draws):
                calls += 1
                own = SampleRandomness(self.context.seed + calls, self.index)
                model = partial(self._drawn, randomness=own)
                values.append(objective(model, self.targets, loss)(x))
            return torch.stack(values).mean(0)

        return expected

    def among(self, rows: Tensor) -> "Victim":
        """These of the samples alone. rows: int64 [n]."""
        mask = None if self.mask is None else self.mask[rows]
        targets = {task: target[rows] for task, target in self.targets.items()}
        return Victim(self.context, Embedded(self.x[rows], mask), targets, self.index[rows])

    def draws(self, restart: int) -> Draws:
        """The attacker's random numbers of one restart, by purpose."""
        return lambda purpose: self.draw(f"attack/{restart}/{purpose}")

    def _drawn(self, x: Tensor, randomness: SampleRandomness) -> dict[str, Tensor]:
        return self.context.predict(Embedded(x, self.mask), randomness=randomness)


class Robustness(Probe):
    """robust_accuracy = (1/n) Σ_i Π_r [argmax f(x_ir) = y_i], the x_ir with r = 0 the clean sample
    and the others those of the attack at restart r; clean errors count as not robust, so it never
    exceeds clean_accuracy, which is of the same n samples. robust_loss: mean of the largest
    cross-entropy. vanishing_gradients: the share of samples whose loss has a gradient of exactly
    zero or not finite, which no gradient attack can move: an alarm, not a success. With several
    tasks, one value a task and their mean.

    norm: norm of the ball, over all entries of a sample: `linf` or `l2`.
    eps: radius of the ball in pixels of [0, 1], a number or a fraction; 8/255; on texts a length of
        embeddings.
    samples: samples attacked, those with the n smallest numbers of the part; null: all.
    """

    parts: ClassVar[tuple[str, ...]] = ("test",)
    restarts = 1
    by_gradient = True
    draws = 1

    def __init__(self, norm: Norm, eps: float | str, samples: int | None):
        super().__init__()
        self.norm = norm
        self.eps = radius(eps)
        self.samples = samples
        self.sums: dict[str, Tensor] = {}

    @abstractmethod
    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        """x_adv of one restart."""

    def refusal(self, composition: Composition) -> str:
        random = [
            key for key, d in composition.declarations.items() if "random_inference" in d.tags
        ]
        if random and self.by_gradient and self.draws == 1:
            return (
                f"methods.{random[0]} answers at random, and one draw's gradient misleads the "
                "attack: average over "
                "several, evaluate.attack.draws=10"
            )
        return ""

    def update(
        self, context: Context, view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        x, mask, _ = context.reported().embed(view)
        for task in targets:
            self.sums.setdefault(task, torch.zeros(len(FIGURES) + 1, device=x.device))
        kept = torch.arange(len(index), device=index.device)
        kept = kept if self.samples is None else kept[index < self.samples]
        if not len(kept):
            return
        with torch.autocast(x.device.type, enabled=False):
            embedded = Embedded(x.detach().float()[kept], None if mask is None else mask[kept])
            victim = Victim(
                context,
                embedded,
                {task: target[kept] for task, target in targets.items()},
                index[kept],
            )
            with fixed(context.reported()):
                self.measure(victim)

    def measure(self, victim: Victim) -> None:
        """Attack the samples and count."""
        threat = Threat.around(Embedded(victim.x, victim.mask), self.norm, self.eps)
        stuck = victim.x.new_zeros(len(victim.x))
        if self.by_gradient:
            gradient = threat.direction(
                input_gradient(victim.objective("ce", self.draws), victim.x)
            )
            stuck = (gradient.flatten(1).abs().amax(1) == 0).float()
        points = [victim.x]
        for restart in range(self.restarts):
            points.append(self.attack(victim, threat, victim.draws(restart)))
        logits = [victim.logits(point) for point in points]
        for task, target in victim.targets.items():
            known = (target >= 0).float()
            right = torch.stack([values[task].argmax(1) == target for values in logits]).float()
            loss = torch.stack([cross_entropy(values[task], target) for values in logits]).amax(0)
            figures = (right[0], right.amin(0), loss, stuck, torch.ones_like(loss))
            self.sums[task] += torch.stack([(known * values).sum() for values in figures])

    def compute(self) -> dict[str, Tensor]:
        sums = {task: global_sum(values) for task, values in self.sums.items()}
        ratios = {task: values[:-1] / values[-1].clamp_min(1) for task, values in sums.items()}
        if not ratios:
            return {}
        mean = torch.stack(list(ratios.values())).mean(0)
        found = {name: mean[i] for i, name in enumerate(FIGURES)}
        if len(ratios) > 1:
            found |= {
                f"{task}/{n}": values[i]
                for task, values in ratios.items()
                for i, n in enumerate(FIGURES)
            }
        if not self.by_gradient:
            return {
                name: value
                for name, value in found.items()
                if not name.endswith("vanishing_gradients")
            }
        if found["vanishing_gradients"] > ALARM:
            share = float(found["vanishing_gradients"])
            rank_zero_warn(
                f"the loss has no gradient at {share:.0%} of the samples: robust_accuracy is not "
                "to be believed; try "
                "evaluate.attack.loss=dlr and evaluate.attack=square"
            )
        return found

    def reset(self) -> None:
        self.sums = {}


class FGSMRobustness(Robustness):
    """x' = x + eps · sign g (l2: eps · g / ‖g‖₂), one step along the gradient g of the loss.
    Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv
    1412.6572.

    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr`.
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.loss = loss
        self.draws = draws

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        return fgsm(victim.objective(self.loss, self.draws), victim.x, threat)


class PGDRobustness(Robustness):
    """x' ← Proj(x' + a · direction(g)), `steps` steps from each of `restarts` random starts in the
    ball; the worst of them counts. Madry et al., ICLR 2018, arXiv 1706.06083.

    steps: steps of PGD, at least 1; 20 (PGD-20).
    step_size: length a of a step; null: eps/4, which is 2/255 at 8/255 (papers).
    restarts: random starts, of which the worst counts, at least 1; 2.
    random_start: start at random points of the ball; false: at the sample, once.
    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr`.
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 20,
        step_size: Radius | None = None,
        restarts: Count = 2,
        random_start: bool = True,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.steps = steps
        self.random_start = random_start
        self.loss = loss
        self.draws = draws
        self.step_size = self.eps / 4 if step_size is None else radius(step_size)
        self.restarts = restarts if random_start else 1

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        start = threat.random_start(victim.x, draw("start")) if self.random_start else None
        return pgd(
            victim.objective(self.loss, self.draws),
            victim.x,
            threat,
            self.steps,
            self.step_size,
            start,
        )


class MIFGSMRobustness(Robustness):
    """m ← μ m + g / ‖g‖₁, x' ← Proj(x' + a · direction(m)): steps along a running sum of normalised
    gradients. Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv 1710.06081.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 1 (paper).
    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr`.
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Annotated[float, Field(ge=0)] = 1.0,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.steps = steps
        self.momentum = momentum
        self.loss = loss
        self.draws = draws
        self.step_size = None if step_size is None else radius(step_size)

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        value = victim.objective(self.loss, self.draws)
        return mi_fgsm(value, victim.x, threat, self.steps, self.momentum, self.step_size)


class SquareRobustness(Robustness):
    """x' = argmax of the margin loss over random squares of ±eps, by `queries` forwards a sample
    and without any gradient, in linf: it finds what a masked gradient hides. Andriushchenko et al.,
    Square Attack, ECCV 2020, arXiv 1912.00049.

    queries: queries of the network for each sample, at least 1; 1000.
    initial: share of the picture that the first squares cover, in (0, 1]; 0.8 (AutoAttack).
    restarts: independent searches, of which the worst counts, at least 1; 1.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    by_gradient = False

    def __init__(
        self,
        eps: Radius = "8/255",
        queries: Count = 1000,
        initial: Annotated[float, Field(gt=0, le=1)] = 0.8,
        restarts: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__("linf", eps, samples)
        self.queries = queries
        self.initial = initial
        self.restarts = restarts

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        def among(rows: Tensor) -> Objective:
            return victim.among(rows).objective("margin")

        value = victim.objective("margin")
        return square_attack(value, victim.x, threat, self.queries, draw, self.initial, among).x


if not TYPE_CHECKING:  # with a module `__getattr__` mypy would accept any name
    __getattr__ = former_names(__name__)
