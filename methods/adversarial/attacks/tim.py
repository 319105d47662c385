"""Translation-invariant attacks. Dong et al., Evading Defenses to Transferable Adversarial Examples
by Translation-Invariant Attacks, CVPR 2019, arXiv 1904.02884."""

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count, Share
from methods.adversarial.attacks.attack import Draws, Victim, least_side
from methods.adversarial.attacks.dim import Diversity, Resize
from methods.adversarial.attacks.losses import input_gradient
from methods.adversarial.attacks.mi_fgsm import Momentum, MomentumAttack, momentum_steps
from methods.adversarial.attacks.threat import Norm, Radius, Threat
from recipes.contract.environment import Environment

Kernel = Literal["gaussian", "linear", "uniform"]
Sigma = Literal["k/3", "k/sqrt3"]
SIGMAS = {"k/3": 1 / 3, "k/sqrt3": 1 / math.sqrt(3)}


def kernel(
    name: Kernel, reach: int, sigma: Sigma = "k/3", device: torch.device | str = "cpu"
) -> Tensor:
    """W [2k+1, 2k+1] with sum 1: uniform, ∝ (1 - |i|/(k+1)) (1 - |j|/(k+1)), or
    ∝ exp(-(i² + j²) / (2 σ²)) with σ = k/3 (authors' code) or k/√3."""
    line = torch.arange(-reach, reach + 1, dtype=torch.float64, device=device)
    if name == "uniform" or not reach:
        weights = torch.ones_like(line)
    elif name == "linear":
        weights = 1 - line.abs() / (reach + 1)
    else:
        weights = torch.exp(-0.5 * (line / (SIGMAS[sigma] * reach)) ** 2)
    weights = weights / weights.sum()
    return torch.outer(weights, weights).float()


def smoothed(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient [N, C, H, W], each channel convolved with W [2k+1, 2k+1] under zero padding."""
    channels = gradient.shape[1]
    # an entry that is not finite would spread over its neighbors
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    filters = weights.expand(channels, 1, *weights.shape)
    with torch.autocast(gradient.device.type, enabled=False):
        return F.conv2d(gradient, filters, padding="same", groups=channels)


class TIM(MomentumAttack):
    """x' ← Proj(x' + a · direction(m)), m ← μ m + W∗g / ‖W∗g‖₁: the gradient g is convolved with a
    kernel W of (2k+1)² weights, in place of an average over all pictures shifted by up to k pixels.
    It finds what does not depend on the exact position, and transfers better to defended networks.

    The default is TI-FGSM; momentum=1 is TI-MI-FGSM, and with probability=0.7 TI-DIM. With a kernel
    of one weight it is BIM. k=7 belongs to 299 pixels; pictures of 32 take 1 to 3.

    momentum: decay μ of the running sum, at least 0; 0 (TI-FGSM).
    kernel: weights of the shifts: `gaussian` (paper), `linear` or `uniform`.
    reach: largest shift k in pixels, at least 0; 7 (paper). The kernel, 2k+1 wide, must fit into
        the picture.
    sigma: deviation of the Gaussian: `k/3` (authors' code) or `k/sqrt3`.
    probability: of changing a picture before its gradient is taken as in DIM, 0 to 1; 0.
    resize: bound of DIM's random side over the picture's, above 0 and not 1; 0.9.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    images_only: ClassVar[str] = "TIM convolves the gradient over a picture's pixels"

    def __init__(
        self,
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 0.0,
        kernel: Kernel = "gaussian",
        reach: Annotated[int, Field(ge=0)] = 7,
        sigma: Sigma = "k/3",
        probability: Share = 0.0,
        resize: Resize = 0.9,
    ):
        super().__init__(steps, step_size, momentum)
        self.kernel: Kernel = kernel
        self.reach = reach
        self.sigma: Sigma = sigma
        self.diversity = Diversity(probability, resize)

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        weights = kernel(self.kernel, self.reach, self.sigma, victim.x.device)

        def gradient(moved: Tensor, buffer: Tensor, number: int) -> Tensor:
            value = self.diversity.objective(victim.value, draw(f"diversity/{number}"))
            return smoothed(input_gradient(value, moved), weights)

        settings = (self.steps, self.momentum, self.length_of_step(threat), start)
        return momentum_steps(gradient, victim.x, threat, *settings)

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        super().check(key, norm, environment)
        side = least_side(environment)
        if side is not None and 2 * self.reach + 1 > side:
            problem = (
                f"got {self.reach}: the kernel is {2 * self.reach + 1} pixels wide, and pictures "
                f"have {side}"
            )
            raise UserError(f"{key}.reach", problem, f"expected at most {(side - 1) // 2}")
        if self.diversity.probability:
            self.diversity.check(key, environment)
