"""Angular loss. Wang, Zhou, Wen, Liu and Lin, Deep metric learning with angular loss, ICCV 2017,
arXiv 1708.01682."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_rows
from torch.nn.functional import softplus

from foundation.types import Count, Weight
from methods.metric_learning.log_sums import EXACT
from methods.metric_learning.measures import MASKED
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pairwise import pair_masks
from recipes.contract import Context


def angular(x: Tensor, labels: Tensor, tangent: float) -> Tensor:
    """mean over positive pairs of log[1 + Σ_N e^{4t ⟨a+p, n⟩ - 2(1+t) ⟨a, p⟩}] of unit vectors.

    x: [B, d], labels: [B], -1 for none. tangent: t = tan² α.

    Σ_N e^{4t ⟨a, n⟩} e^{4t ⟨p, n⟩} over all pairs is one product of a matrix [B, B] with itself, as
    both have the same negatives; no number for each triplet is needed.
    """
    unit = unit_rows(x, dim=1)
    cosine = unit @ unit.T
    positive, negative = pair_masks(labels)
    # e^{4t (S - max S)}, so that no exponential is above 1
    exponents = torch.where(negative, 4 * tangent * cosine, -MASKED)
    largest = exponents.detach().amax(1, keepdim=True).clamp_min(-4 * tangent)
    exponentials = (exponents - largest).exp()
    products = exponentials @ exponentials.T
    some = positive & (products > 0)
    log_sums = products.where(some, 1).log() + largest + largest.T
    z = torch.where(some, log_sums - 2 * (1 + tangent) * cosine, -MASKED)
    return softplus(z, threshold=EXACT).sum() / positive.sum().clamp_min(1)


class Angular(MetricLoss):
    """L = mean over positive pairs of log[1 + Σ_N e^{4t (a+p)·n - 2(1+t) a·p}], t = tan² α: the
    angle at the negative of the triangle with the pair's middle is to be below α.

    It bounds an angle in place of a distance, which does not change with scale, and all three sides
    of a triplet get a gradient. On unit vectors the exponent is, but for a constant, the hinge
    ‖a-p‖² - 4t ‖n - (a+p)/2‖² of the paper. The paper takes one pair a class; with more, all
    ordered positive pairs count. The loss normalises all three inside, so with `normalize: false`
    it trains the embedding of `npair`, as the paper does with a weight of 2 for this part.

    alpha: α, upper bound of the angle in degrees, in (0, 60]; 45 (paper: 36 to 55). Above, the
        exponentials leave the range of float32.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    def __init__(
        self,
        alpha: Annotated[float, Field(gt=0, le=60)] = 45.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.alpha = alpha

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        return angular(x, labels, math.tan(math.radians(self.alpha)) ** 2), {}
