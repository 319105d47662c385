"""Angular loss. Wang, Zhou, Wen, Liu and Lin, Deep metric learning with angular loss, ICCV 2017,
arXiv 1708.01682."""

import math
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize as unit_rows
from torch.nn.functional import softplus

from foundation import devices
from foundation.types import Count, Weight
from methods.metric_learning.blocks import BLOCK, BLOCK_ELSEWHERE
from methods.metric_learning.log_sums import EXACT
from methods.metric_learning.measures import MASKED
from methods.metric_learning.metric import MetricLoss, Scores
from recipes.contract import Context

# rows of a block at most: its products of all rows with all grow with their square
ROWS = 128


def angular(x: Tensor, labels: Tensor, tangent: float) -> Tensor:
    """mean over positive pairs of log[1 + Σ_N e^{4t ⟨a+p, n⟩ - 2(1+t) ⟨a, p⟩}] of unit vectors.

    x: [B, d], labels: [B], -1 for none. tangent: t = tan² α.

    Both of a pair have the same negatives, so Σ_N e^{4t ⟨a, n⟩} e^{4t ⟨p, n⟩} over all pairs of
    some classes is one product of their rows e^{4t S} with themselves: no number for each triplet
    is needed, and classes are taken as many at a time as a block holds.
    """
    return cast(Tensor, _Angular.apply(unit_rows(x, dim=1), labels, tangent))


def whole_classes(labels: Tensor, most: int) -> list[Tensor]:
    """Rows by class, of as many classes as make up to `most` rows, or of one larger class; classes
    of one sample are left out. On a device whose labels the host would have to wait for, all rows
    at once."""
    if not devices.readable(labels):
        return [torch.arange(len(labels), device=labels.device)]
    order = labels.argsort()
    order = order[labels[order] >= 0]
    _, counts = labels[order].unique_consecutive(return_counts=True)
    blocks: list[list[Tensor]] = []
    size = most
    for rows in order.split(counts.tolist()):
        if len(rows) == 1:
            continue
        if size + len(rows) > most:
            blocks.append([])
            size = 0
        blocks[-1].append(rows)
        size += len(rows)
    return [torch.cat(block) for block in blocks]


def add_block(
    unit: Tensor, labels: Tensor, rows: Tensor, tangent: float, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """(Σ over the positive pairs of these rows, how many they are); adds the derivative of the sum
    by `unit` to `grad`. rows: [b], whole classes."""
    own, of_own = unit[rows], labels[rows]
    cosine = own @ unit.T
    labeled = of_own >= 0
    same = of_own[:, None] == labels
    negative = ~same & labeled[:, None] & (labels >= 0)
    positive = (same[:, rows] & labeled).fill_diagonal_(False)
    of_pairs = cosine[:, rows]
    # e^{4t (S - max S)}, so that no exponential is above 1
    exponents = torch.where(negative, 4 * tangent * cosine, -MASKED)
    largest = exponents.amax(1, keepdim=True).clamp_min(-4 * tangent)
    exponentials = (exponents - largest).exp()
    products = exponentials @ exponentials.T
    some = positive & (products > 0)
    log_sums = products.where(some, 1).log() + largest + largest.T
    z = torch.where(some, log_sums - 2 * (1 + tangent) * of_pairs, -MASKED)
    # the derivative of softplus is the sigmoid, and a pair stands at (a, p) and at (p, a)
    share = torch.where(some, z.sigmoid() / products, 0)
    by_cosine = (share @ exponentials).mul_(exponentials).mul_(8 * tangent)
    by_cosine[:, rows] -= 2 * (1 + tangent) * share * products
    grad[rows] += by_cosine @ unit
    grad += by_cosine.T @ own
    return softplus(z, threshold=EXACT).sum(), positive.sum()


class _Angular(torch.autograd.Function):
    """The gradient is made block by block with the value, as in `pair_gradients`."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor, labels: Tensor, tangent: float) -> Tensor:
        limit = BLOCK.get(unit.device.type, BLOCK_ELSEWHERE)
        most = min(max(limit // max(len(unit), 1), 1), ROWS)
        grad = torch.zeros_like(unit)
        value, pairs = unit.new_zeros(()), labels.new_zeros(())
        for rows in whole_classes(labels, most):
            of_block, count = add_block(unit, labels, rows, tangent, grad)
            value, pairs = value + of_block, pairs + count
        pairs = pairs.clamp_min(1)
        ctx.grad = grad.div_(pairs)
        return value / pairs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("angular has a first derivative alone: leave create_graph out")
        return ctx.grad * grad_outputs[0], None, None


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
