"""AdaLoRA. Zhang et al., Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, ICLR 2023,
arXiv 2303.10512."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, ShareBelowOne, StepsOrShare, Weight
from methods.peft.adalora_format import read_adalora, write_adalora
from methods.peft.lora import LoRA, LowRank
from methods.peft.sites import Site, default_targets, find_sites, is_linear
from methods.peft.weights import attach
from recipes.contract import Context, Declaration
from recipes.networks.network import Network
from recipes.step import Step

EPSILON = 1e-5  # of the authors' scale α / (r + ε)


# -- mathematics -----------------------------------------------------------------------------------
def budget(step: int, total: int, first: int, last: int, start: int, final: int) -> int:
    """Triplets that are left after optimizer step t: `first` until t_i, `last` for the final t_f
    steps, between them a cubic descent, cut to a whole number.

    step, total, start, final: t, T, t_i, t_f.
    """
    if step <= start:
        return first
    if step >= total - final:
        return last
    left = 1 - (step - start) / (total - final - start)
    return int(last + (first - last) * left**3)


def smoothed_importance(
    product: Tensor, mean: Tensor, spread: Tensor, beta1: float, beta2: float
) -> tuple[Tensor, Tensor]:
    """Ī ← β1 Ī + (1-β1) I and Ū ← β2 Ū + (1-β2) |I - Ī| with the new Ī, of I = |w · ∂L/∂w|.
    Gradients that are not finite change nothing.

    product: w · ∂L/∂w, any shape; mean, spread: Ī, Ū in the same shape.
    """
    importance = product.abs()
    new_mean = torch.lerp(importance, mean, beta1)
    new_spread = torch.lerp((importance - new_mean).abs(), spread, beta2)
    finite = importance.isfinite().all()
    return torch.where(finite, new_mean, mean), torch.where(finite, new_spread, spread)


def triplet_scores(a: Tensor, e: Tensor, b: Tensor) -> Tensor:
    """S_i = s(E_i) + mean_j s(A_ij) + mean_j s(B_ji), [r], of the scores s = Ī Ū of single weights.
    a: [r, …], e: [r, 1], b: [d_out, r, …]."""
    return e.flatten() + a.flatten(1).mean(1) + b.flatten(1).mean(0)


def lowest(scores: Tensor, count: int) -> Tensor:
    """A mask of the `count` lowest scores."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.index_fill(0, scores.topk(count, largest=False).indices, True)


def orthogonality(factors: Iterable[Tensor]) -> Tensor:
    """The mean of ‖F Fᵀ - I‖_F over all factors F, [r, d] each, in float32; factors of one shape
    are multiplied together."""
    alike: dict[torch.Size, list[Tensor]] = {}
    for factor in factors:
        alike.setdefault(factor.shape, []).append(factor.float())
    distances = []
    for group in alike.values():
        stacked = torch.stack(group)
        identity = torch.eye(stacked.shape[1], device=stacked.device)
        distances.append(torch.linalg.vector_norm(stacked @ stacked.mT - identity, dim=(1, 2)))
    return torch.cat(distances).mean()


# -- modules ---------------------------------------------------------------------------------------
class Triplets(LowRank):
    """ΔW = s B diag(E) A: `rank` triplets (A_i, E_i, B_i). E starts at zero, A and B as N(0,
    0.02²)."""

    def __init__(self, site: Site, rank: int, scale: float, dropout: float):
        super().__init__(site, rank, scale, dropout, "gaussian")
        self.e = nn.Parameter(torch.zeros(rank, 1, device=self.a.device))
        nn.init.normal_(self.a, std=0.02)
        nn.init.normal_(self.b, std=0.02)

    @property
    def down(self) -> Tensor:
        return self.a * self.e.view(-1, *[1] * (self.a.ndim - 1))

    def factors(self) -> Iterator[Tensor]:
        """A and Bᵀ, [r, d_in] and [r, d_out]."""
        yield self.a.flatten(1)
        yield self.b.flatten(1).t()

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """A, E and B."""
        return self.a, self.e, self.b


class Allocation(nn.Module):
    """The state of the budget: Ī and Ū of all weights in a row, and which triplets are kept."""

    mean: Tensor
    spread: Tensor
    kept: Tensor

    def __init__(self, deltas: Sequence[Triplets]):
        super().__init__()
        self.shapes = [tensor.shape for delta in deltas for tensor in delta.tensors()]
        weights = sum(shape.numel() for shape in self.shapes)
        triplets = sum(len(delta.e) for delta in deltas)
        device = deltas[0].e.device
        self.register_buffer("mean", torch.zeros(weights, device=device))
        self.register_buffer("spread", torch.zeros(weights, device=device))
        self.register_buffer("kept", torch.ones(triplets, dtype=torch.bool, device=device))

    def observe(self, deltas: Sequence[Triplets], beta1: float, beta2: float) -> None:
        """Take in the gradients of one step. A step without gradients is left out."""
        tensors = [tensor for delta in deltas for tensor in delta.tensors()]
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if len(gradients) < len(tensors):
            return
        products = torch._foreach_mul(tensors, gradients)
        row = torch.cat([product.flatten() for product in products])
        mean, spread = smoothed_importance(row, self.mean, self.spread, beta1, beta2)
        self.mean.copy_(mean)
        self.spread.copy_(spread)

    def scores(self) -> Tensor:
        """The score of every triplet, in the order of the deltas."""
        sizes = [shape.numel() for shape in self.shapes]
        row = (self.mean * self.spread).split(sizes)
        single = [part.view(shape) for part, shape in zip(row, self.shapes, strict=True)]
        by_delta = zip(single[::3], single[1::3], single[2::3], strict=True)
        return torch.cat([triplet_scores(a, e, b) for a, e, b in by_delta])

    def prune(self, deltas: Sequence[Triplets]) -> None:
        """E ← 0 for all triplets that are not kept."""
        values: list[Tensor] = [delta.e for delta in deltas]
        kept = self.kept.split([len(value) for value in values])
        masks = [part.unsqueeze(1).to(e.dtype) for part, e in zip(kept, values, strict=True)]
        torch._foreach_mul_(values, masks)


# -- the method ------------------------------------------------------------------------------------
class AdaLoRA(LoRA):
    """y = W x + b + s · B (A ⊙ E) dropout(x), s = α/(r + 1e-5): LoRA as r triplets (A_i, E_i, B_i)
    per layer, of which those that matter least over all layers are pruned while training.

    A: [r, d_in], E: [r, 1], B: [d_out, r]; E starts at zero. After every step the importance
    |w · ∂L/∂w| of each weight and its uncertainty are averaged; a triplet's score is the product of
    both, of E_i plus the means over A_i and B_i. The budget of triplets falls from `rank_init` to
    `rank_target` a layer, cubically between `start` and the last `final` steps. Pruned triplets
    have E_i = 0; they get gradients and may come back until the final steps, in which the choice is
    fixed. The loss term `orthogonality` keeps A and B near orthogonal. Exactly as many triplets are
    pruned as the budget says, also where scores are equal. Use it where the budget is tight and
    layers differ; it needs long runs. Learning rates as for LoRA. A network without attention has
    its convolutions as targets.

    rank_init: triplets of a layer at the start, at least `rank_target`; 12 (paper: 1.5 times the
        target).
    rank_target: triplets of a layer at the end, in the mean over layers; 8 (paper).
    alpha: α of the scale, above 0; 16 (paper: 16 or 32).
    dropout: dropout of the input of A, in [0, 1); 0.
    orthogonality: weight of the term, at least 0; 0.1 (paper).
    start: t_i, when pruning begins: steps, or a share of the run below 1; 0.1.
    final: t_f, the last steps in which the choice is fixed: steps, or a share of the run below 1;
        0.5. Paper: 0.1 and 0.5 on the largest set.
    every: steps from one pruning to the next; 10 (paper: 100 in runs of 85,000 steps).
    beta1: β1 of the mean importance, in [0, 1); 0.85 (paper).
    beta2: β2 of the uncertainty, in [0, 1); 0.85 (paper).
    targets: layers by role or pattern, as for `lora`; null: all linear layers of the blocks
        (paper), else convolutions.
    qkv: a fused query-key-value layer has triplets for each part, `split`, or in common, `shared`
        (peft).
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "low_rank"))

    def __init__(
        self,
        rank_init: Count = 12,
        rank_target: Count = 8,
        alpha: Scale = 16.0,
        dropout: ShareBelowOne = 0.0,
        orthogonality: Weight = 0.1,
        start: StepsOrShare = 0.1,
        final: StepsOrShare = 0.5,
        every: Count = 10,
        beta1: ShareBelowOne = 0.85,
        beta2: ShareBelowOne = 0.85,
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        super().__init__(rank_init, alpha, dropout, targets=targets, qkv=qkv, load=load)
        self.rank_target = rank_target
        self.orthogonality = orthogonality
        self.start = start
        self.final = final
        self.every = every
        self.beta1 = beta1
        self.beta2 = beta2

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank + EPSILON)

    def declare(self) -> Declaration:
        option = f"methods.{self.key}"
        if self.rank_target > self.rank:
            problem = f"is above rank_init={self.rank}"
            raise UserError(f"{option}.rank_target={self.rank_target}", problem, "lower it")
        if self.start < 1 and self.final < 1 and self.start + self.final >= 1:
            problem = f"and final={self.final} leave no steps between them"
            raise UserError(f"{option}.start={self.start}", problem, "expected a sum below 1")
        return self.declaration

    def attach(self, network: Network) -> None:
        sites = self.sites(network)
        deltas = [Triplets(site, self.rank, self.scale, self.dropout) for site in sites]
        network.deltas[self.key] = nn.ModuleList(deltas)
        attach(network, deltas)

    def usual_targets(self, backbone: nn.Module) -> list[str]:
        blocks = [site for site in find_sites(backbone) if site.role.startswith(("attn", "mlp"))]
        if any(is_linear(site.module) for site in blocks):
            return ["all_linear"]
        return default_targets(backbone)

    read_folder = staticmethod(read_adalora)
    write_folder = staticmethod(write_adalora)

    # -- in training -------------------------------------------------------------------------------
    def build(self, context: Context) -> None:
        total = context.total_steps
        start, final = self.phases(total)
        if total and total <= start + final:
            raise UserError(
                f"methods.{self.key}",
                f"start={start} and final={final} steps leave none of the run's {total} between",
                "lower one of them, or raise trainer.max_steps",
            )
        context.method_modules[self.key] = Allocation(self.triplets(context))

    def phases(self, total: int) -> tuple[int, int]:
        """t_i and t_f in steps; shares are rounded down."""
        start, final = (
            int(value * total) if value < 1 else int(value) for value in (self.start, self.final)
        )
        return start, final

    def triplets(self, context: Context) -> list[Triplets]:
        return self.deltas(context.network)

    def terms(self, step: Step, context: Context) -> None:
        if not self.orthogonality:
            return
        factors = [factor for delta in self.triplets(context) for factor in delta.factors()]
        # in half precision the distance to the identity is rounding
        with torch.autocast(context.device.type, enabled=False):
            distance = orthogonality(factors)
        step.term("orthogonality", distance, weight=self.orthogonality)

    @torch.no_grad()
    def after_step(self, step: Step, context: Context) -> None:
        deltas = self.triplets(context)
        allocation: Allocation = self.module(context)
        total = context.total_steps
        done = step.progress.step + 1
        start, final = self.phases(total)
        first_fixed = total - final
        if done < first_fixed:
            allocation.observe(deltas, self.beta1, self.beta2)
        if done > first_fixed:
            allocation.prune(deltas)
        elif done == first_fixed or (done > start and done % self.every == 0):
            everything = len(allocation.kept)
            last = self.rank_target * len(deltas)
            left = budget(done, total, everything, last, start, final)
            allocation.kept.copy_(~lowest(allocation.scores(), everything - left))
            allocation.prune(deltas)
