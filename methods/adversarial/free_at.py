"""Free adversarial training. Shafahi et al., Adversarial Training for Free!, NeurIPS 2019, arXiv
1904.12843."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from datamodules.samplers import Order, ShuffledPasses
from foundation.distributed import gather_rows
from foundation.types import Count
from methods.adversarial.attacks.threat import Radius, Threat, radius
from methods.adversarial.perturbation import PRECISIONS
from recipes.contract import Context, Declaration, Method
from recipes.services.adopted import AdoptsShape
from recipes.step import Embedded, Step


@dataclass(frozen=True)
class Replayed:
    """An order that yields every micro-batch `times` times in a row."""

    order: Order
    batch_size: int
    times: int

    def take(self, start: int, stop: int) -> Tensor:
        positions = torch.arange(start, stop)
        batch = positions.div(self.batch_size * self.times, rounding_mode="floor")
        wanted = batch * self.batch_size + positions % self.batch_size
        low = int(wanted.min())
        return self.order.take(low, int(wanted.max()) + 1)[wanted - low]


def replayed(
    targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str, times: int
) -> Replayed:
    """Shuffled passes, each micro-batch `times` times."""
    size = len(next(iter(targets.values())))
    return Replayed(ShuffledPasses(size, seed, stream), batch_size, times)


class RowPerturbations(AdoptsShape):
    """δ of the global batch, by row; a single zero until the first step, which sets its shape."""

    delta: Tensor
    adopted_shapes = ("delta",)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("delta", torch.zeros(1, 1, 1, 1))

    def rows(self, x: Tensor, rank: int) -> Tensor:
        """δ of the rows of this rank, whose inputs are x; zeros in the first step."""
        if self.delta.shape[1:] != x.shape[1:]:
            return torch.zeros_like(x)
        return self.delta[rank * len(x) : (rank + 1) * len(x)].clone()


def in_box(x: Tensor) -> Tensor:
    """Pixels clipped to [0, 1]; those on a bound have a gradient, those beyond it none."""
    # not `clamp(0, 1)`, whose gradient at a bound is 0 in current versions of torch: a black pixel
    # would never be perturbed
    return torch.where((x >= 0.0) & (x <= 1.0), x, x.detach().clamp(0.0, 1.0))


class FreeAT(Method):
    """δ ← clip(δ + eps sign g, -eps, eps): every batch is trained on `replays` times in a row; each
    time one backward gives the gradients of the parameters, for an optimizer step, and that of δ. δ
    belongs to a row of the batch.

    Replays are ordinary steps of the run: schedules, EMA and max_steps count them, so a run of
    max_steps sees max_steps / replays batches. A batch has the same view in all its replays. linf
    on images, pixels clipped to [0, 1] in the graph, as in the authors' code: δ of a pixel that is
    clipped from beyond a bound does not change. The network is always in training mode.

    eps: radius of the linf ball in pixels of [0, 1], at least 0; 8/255 (paper).
    replays: steps m on each batch, at least 1; 8 (paper).
    """

    neutral = {"eps": 0}

    def __init__(self, eps: Radius = "8/255", replays: Count = 8):
        self.eps = radius(eps)
        self.replays = replays

    def declare(self) -> Declaration:
        return Declaration(
            modalities=("image",),
            slots=("attack", "sampler", "two_passes"),
            orders={"labeled": partial(replayed, times=self.replays)},
            tags=("attacks_labeled",),
            lower_on_collapse=("eps",),
            refuses={
                "mixes_inputs": (
                    "its perturbation belongs to a row, and mixing draws new partners in every "
                    "replay"
                )
            },
            after=("soft_targets",),
            accumulation=False,
            precisions=PRECISIONS,
        )

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = RowPerturbations()

    def prepare(self, step: Step, context: Context) -> None:
        # the view of the first of the batch's replays
        position = step.randomness.step - step.randomness.step % self.replays
        x = context.network.embed(step.view_at("labeled", "weak", position)).x
        # a leaf, which collects its gradient for `after_step`
        delta = context.method_modules[self.key].rows(x, step.randomness.rank).requires_grad_()
        step.scratch[self.key] = delta
        step.change("labeled", embedded=Embedded(in_box(x + delta)))

    @torch.no_grad()
    def after_step(self, step: Step, context: Context) -> None:
        threat = Threat("linf", self.eps)
        delta: Tensor = step.scratch[self.key]
        raised = delta
        if delta.grad is not None:
            raised = delta + self.eps * threat.direction(delta.grad)
        context.method_modules[self.key].delta = gather_rows(raised.clamp(-self.eps, self.eps))
