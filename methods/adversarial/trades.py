"""TRADES. Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML
2019, arXiv 1901.08573."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count
from methods.adversarial.attacks.attack import Attack
from methods.adversarial.attacks.losses import Objective
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.threat import Norm, Radius, radius
from methods.adversarial.perturbation import LAST, PRECISIONS, ByAttack, add_delta, model_of
from recipes.contract import Context, Declaration
from recipes.contract.environment import Environment
from recipes.step import Input, Step
from recipes.step.criterion import kl_divergence


def divergence_from_clean(context: Context, entry: Input) -> Objective:
    """x' -> Σ_tasks KL(p(x) ‖ p(x')), [N], p(x) without gradient."""
    model = model_of(context, entry.embedded)
    reference = {task: values.detach() for task, values in model(entry.embedded.x.detach()).items()}

    def values(x: Tensor) -> Tensor:
        logits = model(x)
        total = x.new_zeros(len(x))
        for task, clean in reference.items():
            total = total + kl_divergence(clean, logits[task], from_logits=True)
        return total

    return values


class TRADES(ByAttack):
    """L = CE(f(x), y) + β KL(p(x) ‖ p(x')), x' = argmax_{‖x' - x‖ ≤ eps} KL(p(x) ‖ p(x'));
    gradients flow through both.

    The attack raises the divergence, not the loss of the label. It starts at x + σ N(0, I), since
    the gradient at x is zero, and runs in evaluation mode. Both inputs share the step's one
    forward, so batch normalization in training mode uses clean and attacked samples together
    (authors' code: separately). p is the softmax of raw logits, whatever adjusts those of the loss.
    `methods.trades.attack=NAME` raises the divergence by another gradient attack, from the same
    start and with settings of its own (methods.trades.attack.KEY); steps and step_size are then not
    used.

    beta: weight β of the divergence, at least 0; 6 (paper on CIFAR-10; MNIST: 1).
    norm: norm of the ball: `linf` (paper) or `l2`, with step_size about 2 eps / steps.
    eps: radius of the ball in pixels of [0, 1], a number or a fraction; 0.031 (authors' code), not
        8/255.
    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length of a step, at least 0; 0.007 (paper).
    start: σ of the attack's random start, above 0; 0.001 (authors' code). Half precision would
        round it away; x' is float32.
    attack: another gradient attack of the group `attack`, e.g. `mi_fgsm`; null: PGD with the
        settings above.
    """

    neutral = {"beta": 0, "eps": 0}
    declaration = Declaration(
        slots=("attack",),
        tags=("attacks_labeled",),
        after=LAST,
        precisions=PRECISIONS,
        lower_on_collapse=("eps",),
    )

    def __init__(
        self,
        beta: Annotated[float, Field(ge=0)] = 6.0,
        norm: Norm = "linf",
        eps: Radius = 0.031,
        steps: Count = 10,
        step_size: Radius = 0.007,
        start: Annotated[float, Field(gt=0)] = 0.001,
        attack: Attack | None = None,
    ):
        super().__init__(PGD(steps, step_size, random_start=False), attack)
        self.beta = beta
        self.norm = norm
        self.start = start
        self.eps = radius(eps)

    def check(self, environment: Environment) -> None:
        super().check(environment)
        by_labels = getattr(self.attack, "target", "label") != "label"
        if not self.attack.by_gradient or by_labels:
            key = f"methods.{self.key}.attack"
            problem = f"raises a divergence, and {type(self.attack).__name__} does not follow it"
            raise UserError(key, problem, "expected an attack by gradients, away from the label")

    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        shape = entry.embedded.x.shape[1:]
        start = self.start * self.draws(entry, step)("start").normal(*shape)
        value = divergence_from_clean(context, entry)
        return self.perturbation(entry, step, context, value, start)

    def prepare(self, step: Step, context: Context) -> None:
        clean = step.inputs["labeled"].embedded
        step.add(Input(self.key, add_delta(clean, self.delta(step, context))))

    def terms(self, step: Step, context: Context) -> None:
        for task in step.tasks:
            clean = step.logits("labeled", task)
            attacked = step.logits(self.key, task)
            values = kl_divergence(clean, attacked, from_logits=True)
            step.term(step.term_name(self.key, task), values, weight=self.beta, task=task)
