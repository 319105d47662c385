"""Adversarial training. Madry et al., Towards Deep Learning Models Resistant to Adversarial
Attacks, ICLR 2018, arXiv 1706.06083; defaults after Rice, Wong and Kolter, Overfitting in
adversarially robust deep learning, ICML 2020, arXiv 2002.11569; the mode of the attack after Pang
et al., Bag of Tricks for Adversarial Training, ICLR 2021, arXiv 2010.00467."""

from torch import Tensor

from foundation.types import Count
from methods.adversarial.attacks.attack import Attack
from methods.adversarial.attacks.losses import Loss, check_loss
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.threat import Norm, Radius, radius
from methods.adversarial.perturbation import (
    LAST,
    PRECISIONS,
    ByAttack,
    add_delta,
    labels_objective,
)
from recipes.contract import Context, Declaration
from recipes.step import Input, Step


class PGDAT(ByAttack):
    """min_θ E max_{‖δ‖ ≤ eps} CE(f(x + δ), y): the labeled input is replaced by its PGD attack;
    there is no loss on clean inputs.

    δ ← Proj(δ + a · direction(∇ CE)), from a random start in the ball. The attack raises the
    cross-entropy of raw logits, whatever adjusts the logits of the loss, with the network in
    evaluation mode (Madry's code: in training mode). Mixed inputs are attacked with their mixed
    targets. Pixels stay in [0, 1]; on texts the word embeddings are attacked, padding excluded
    (usual settings: norm=l2 eps=1 step_size=.3 steps=3). `methods.pgd_at.attack=NAME` puts another
    attack in the place of PGD, with settings of its own (methods.pgd_at.attack.KEY); steps,
    step_size and random_start are then not used.

    norm: norm of the ball, over all entries of a sample: `linf` or `l2`.
    eps: radius of the ball in pixels of [0, 1], a number or a fraction; 8/255 (Madry, Rice).
    steps: steps of PGD, at least 1; 10 (Rice et al.).
    step_size: length a of a step; null: eps/4, which is 2/255 at 8/255 (Rice et al.).
    random_start: start at a random point of the ball (Madry et al.); false: at the sample.
    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr` (from three classes).
    attack: another attack of the group `attack`, e.g. `mi_fgsm`; null: PGD with the settings above.
    """

    neutral = {"eps": 0}
    declaration = Declaration(
        slots=("attack",),
        tags=("attacks_labeled",),
        after=LAST,
        precisions=PRECISIONS,
        lower_on_collapse=("eps",),
    )

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        random_start: bool = True,
        loss: Loss = "ce",
        attack: Attack | None = None,
    ):
        super().__init__(PGD(steps, step_size, random_start), attack)
        self.norm = norm
        self.eps = radius(eps)
        self.loss = loss

    def build(self, context: Context) -> None:
        super().build(context)
        check_loss(f"methods.{self.key}", self.loss, context.tasks)

    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        value = labels_objective(entry, context, self.loss)
        return self.perturbation(entry, step, context, value)

    def prepare(self, step: Step, context: Context) -> None:
        clean = step.inputs["labeled"].embedded
        step.change("labeled", embedded=add_delta(clean, self.delta(step, context)))
