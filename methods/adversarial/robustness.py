"""One probe per attack, added to any recipe by `evaluate.attack=NAME`; what they measure is in
`robust_accuracy.py`, the attacks are in `attacks/`."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from foundation.moved import former_names
from foundation.types import Count, Share
from methods.adversarial.attacks.bim import BIM, Target
from methods.adversarial.attacks.dim import DIM, Interpolation, Resize
from methods.adversarial.attacks.fgsm import FGSM
from methods.adversarial.attacks.losses import Loss
from methods.adversarial.attacks.mi_fgsm import MIFGSM, Momentum
from methods.adversarial.attacks.ni_fgsm import NIFGSM, Normalizer
from methods.adversarial.attacks.one_pixel import OnePixel
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.attacks.threat import Norm, Radius, radius
from methods.adversarial.attacks.tim import TIM, Kernel, Sigma
from methods.adversarial.under_attack import UnderAttack

IMAGE = ("image",)


class FGSMRobustness(UnderAttack):
    """x' = x + eps · sign g (l2: eps · g / ‖g‖₂), one step along the gradient g of the loss.
    Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv
    1412.6572.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(FGSM(), norm, eps, samples, loss, draws)


class PGDRobustness(UnderAttack):
    """x' ← Proj(x' + a · direction(g)), `steps` steps from each of `restarts` random starts in the
    ball; the worst result counts. Madry et al., ICLR 2018, arXiv 1706.06083.

    steps: steps of PGD, at least 1; 20 (PGD-20).
    step_size: length a of a step; null: eps/4, which is 2/255 at 8/255 (papers).
    restarts: random starts, of which the worst result counts, at least 1; 2.
    random_start: start at random points of the ball; false: at the sample, once.
    evade: weight of the alarms of methods in a second attack, at least 0. It is made where methods
        flag samples, and knows of
        them, at least 0; 10; 0: only the first.
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
        evade: Annotated[float, Field(ge=0)] = 10.0,
    ):
        step = radius(eps) / 4 if step_size is None else step_size
        attack = PGD(steps, step, random_start)
        starts = restarts if random_start else 1
        super().__init__(attack, norm, eps, samples, loss, draws, starts, evade)


class BIMRobustness(UnderAttack):
    """x' ← Proj(x' + a · direction(g)), from the sample itself; also towards the least likely
    class. Kurakin, Goodfellow and Bengio, 2017, arXiv 1607.02533.

    steps: steps, at least 1; null: min(255 eps + 4, 1.25 · 255 eps) (paper), 10 at 8/255.
    step_size: length a of a step; 1/255 (paper), one gray level.
    target: `label`: away from the label; `least_likely`: towards the least likely class (paper).
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count | None = None,
        step_size: Radius = "1/255",
        target: Target = "label",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(BIM(steps, step_size, target), norm, eps, samples, loss, draws)


class MIFGSMRobustness(UnderAttack):
    """m ← μ m + g / ‖g‖₁, x' ← Proj(x' + a · direction(m)): steps along a running sum of normalised
    gradients. Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv 1710.06081.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 1 (paper).
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 1.0,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(MIFGSM(steps, step_size, momentum), norm, eps, samples, loss, draws)


class NIFGSMRobustness(UnderAttack):
    """MI-FGSM with the gradient at x' + a μ m, where momentum is about to lead. Lin et al.,
    Nesterov Accelerated Gradient and Scale Invariance for Adversarial Attacks, ICLR 2020, arXiv
    1908.06281.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 1 (paper).
    normalizer: what divides a gradient in linf: `mean` of its entries (authors' code) or `l1`.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 1.0,
        normalizer: Normalizer = "mean",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        attack = NIFGSM(steps, step_size, momentum, normalizer)
        super().__init__(attack, norm, eps, samples, loss, draws)


class DIMRobustness(UnderAttack):
    """Gradient steps on randomly resized and padded pictures, which transfer better. Xie et al.,
    Improving Transferability of Adversarial Examples with Input Diversity, CVPR 2019, arXiv
    1803.06978.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 0 (paper); 1: M-DI²-FGSM.
    probability: of changing a picture, 0 to 1; 0.5 (paper).
    resize: bound of the random side over the picture's, above 0 and not 1; 0.9 (torchattacks).
    interpolation: of the resize: `bilinear` or `nearest` (authors' code).
    """

    modalities: ClassVar[tuple[str, ...]] = IMAGE

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 0.0,
        probability: Share = 0.5,
        resize: Resize = 0.9,
        interpolation: Interpolation = "bilinear",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        attack = DIM(steps, step_size, momentum, probability, resize, interpolation)
        super().__init__(attack, norm, eps, samples, loss, draws)


class TIMRobustness(UnderAttack):
    """Gradient steps along gradients convolved with a kernel, which transfer to defended networks.
    Dong et al., Evading Defenses to Transferable Adversarial Examples by Translation-Invariant
    Attacks, CVPR 2019, arXiv 1904.02884.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 0 (TI-FGSM); 1: TI-MI-FGSM.
    kernel: weights of the shifts: `gaussian` (paper), `linear` or `uniform`.
    reach: largest shift k in pixels, at least 0; 7 (paper). The kernel, 2k+1 wide, must fit into
        the picture.
    sigma: deviation of the Gaussian: `k/3` (authors' code) or `k/sqrt3`.
    probability: of changing a picture as in DIM before its gradient, 0 to 1; 0; TI-DIM: 0.7.
    resize: bound of DIM's random side over the picture's, above 0 and not 1; 0.9.
    """

    modalities: ClassVar[tuple[str, ...]] = IMAGE

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 0.0,
        kernel: Kernel = "gaussian",
        reach: Annotated[int, Field(ge=0)] = 7,
        sigma: Sigma = "k/3",
        probability: Share = 0.0,
        resize: Resize = 0.9,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        attack = TIM(steps, step_size, momentum, kernel, reach, sigma, probability, resize)
        super().__init__(attack, norm, eps, samples, loss, draws)


class SquareRobustness(UnderAttack):
    """x' = argmax of the margin loss over random squares of ±eps, by `queries` forwards per sample
    and without gradients, in linf: it succeeds where masked gradients stop other attacks.
    Andriushchenko et al., Square Attack, ECCV 2020, arXiv 1912.00049.

    queries: queries of the network per sample, at least 1; 1000.
    initial: share of the picture that the first squares cover, in (0, 1]; 0.8 (AutoAttack).
    restarts: independent searches, of which the worst counts, at least 1; 1.
    """

    modalities: ClassVar[tuple[str, ...]] = IMAGE

    def __init__(
        self,
        eps: Radius = "8/255",
        queries: Count = 1000,
        initial: Annotated[float, Field(gt=0, le=1)] = 0.8,
        restarts: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(Square(queries, initial), "linf", eps, samples, restarts=restarts)


class OnePixelRobustness(UnderAttack):
    """A few pixels of any color, found by differential evolution on the probability of the label,
    without gradients. Su, Vargas and Sakurai, One Pixel Attack for Fooling Deep Neural Networks,
    2019, arXiv 1710.08864.

    pixels: number k of pixels, at least 1; 1 (paper: 1, 3 and 5).
    population: members of the evolution, at least 4; 400 (paper).
    generations: most generations, at least 0; 100 (paper).
    factor: F, scale of the difference in a child, above 0, at most 2; 0.5 (paper).
    restarts: independent searches, of which the worst counts, at least 1; 1.
    """

    modalities: ClassVar[tuple[str, ...]] = IMAGE

    def __init__(
        self,
        pixels: Count = 1,
        population: Annotated[int, Field(ge=4)] = 400,
        generations: Annotated[int, Field(ge=0)] = 100,
        factor: Annotated[float, Field(gt=0, le=2)] = 0.5,
        restarts: Count = 1,
        samples: Count | None = None,
    ):
        attack = OnePixel(pixels, population, generations, factor)
        # the ball is the whole range of pixels
        super().__init__(attack, "linf", 1.0, samples, restarts=restarts)
        self.pixels = pixels

    def ball(self) -> str:
        return f"at most {self.pixels} pixels of any value"


if not TYPE_CHECKING:  # with a module `__getattr__` mypy would accept any name
    __getattr__ = former_names(__name__)
