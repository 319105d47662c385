"""DoRA. Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, arXiv 2402.09353."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.lora import Init, LoRA, LowRank
from methods.peft.sites import Site, oriented
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Context, Declaration
from recipes.networks.network import Network


def lengths(weight: Tensor) -> Tensor:
    """‖W_i‖₂ of every output over all its inputs (and kernel positions), [d_out], in float32, never
    0."""
    norms = torch.linalg.vector_norm(weight.float().flatten(1), dim=1)
    return norms.clamp_min(torch.finfo(torch.float32).tiny)


class Directed(LowRank):
    """W' = m ⊙ (W + s B A) / ‖W + s B A‖ on the rows of a site, m [d_out] learned; the norm passes
    no gradient."""

    def __init__(self, site: Site, rank: int, scale: float, dropout: float, init: Init):
        super().__init__(site, rank, scale, dropout, init)
        self.m = nn.Parameter(lengths(self.own(site.weight.detach())))

    def own(self, rows: Tensor) -> Tensor:
        """The rows of a layer's weight that this delta changes."""
        return rows if self.rows is None else rows[slice(*self.rows)]

    def gain(self, weight: Tensor) -> Tensor:
        """m / ‖W + s B A‖, [d_out]. weight: that of the whole layer."""
        with torch.no_grad():
            own = self.own(weight).float().flatten(1)
            b = self.b.float().flatten(1)
            a = self.a.float().flatten(1)
            norms = lengths(torch.addmm(own, b, a, alpha=self.scale))
        return self.m / norms

    def placed_gain(self, weight: Tensor) -> Tensor:
        """`gain` for all outputs of the layer: 1 for those that this delta does not change."""
        gain = self.gain(weight)
        if self.rows is None:
            return gain
        start, stop = self.rows
        return F.pad(gain, (start, self.outputs - stop), value=1.0)

    def changed(self, weight: Tensor) -> Tensor:
        gain = self.placed_gain(weight.detach()).view(-1, *[1] * (weight.ndim - 1))
        return (gain * (weight + self.placed())).to(weight.dtype)

    @classmethod
    def added(cls, deltas: Sequence[Self], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """With z = y + s B A x: g (z - b) + b = z + (g - 1) z - (g - 1) b, the bias not scaled.
        g - 1 is small, so half precision keeps digits of it that g would lose."""
        assert isinstance(layer.weight, Tensor)
        weight = oriented(layer, layer.weight)
        gain = deltas[0].placed_gain(weight)
        for delta in deltas[1:]:
            gain = gain * delta.placed_gain(weight)
        whole = super().added(deltas, layer, x, output)
        pixel_axes = [1, 1] if isinstance(layer, nn.Conv2d) else []
        more = (gain - 1).to(whole.dtype).view(-1, *pixel_axes)
        changed = torch.addcmul(whole, whole, more)
        if layer.bias is None:
            return changed
        assert isinstance(layer.bias, Tensor)
        return changed - more * layer.bias.to(whole.dtype).view_as(more)


class DoRA(LoRA):
    """W' = m ⊙ (W + s B A) / sg ‖W + s B A‖, row by row: LoRA learns the direction of every
    output's weights and m, which starts as ‖W‖, their length. The network starts as it was, up to
    rounding; biases are not scaled.

    The norm is over all inputs of an output and passes no gradient (section 4.3 of the paper). It
    costs one product of the weight's size per layer and step. Dropout acts on the input of A only.
    m has no weight decay, which would pull it to zero. The norm is undefined if another method
    changes the same weight, so DoRA cannot be combined with LoRA. On a fused layer with `qkv=split`
    each part has its own A, B and m. Learning rates as for LoRA. The peft library's format is
    neither read nor written.

    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(
        tags=("delta",),
        refuses={
            "low_rank": "both change one weight, so the norm would not be that of the weight in use"
        },
    )

    delta = Directed

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        PEFTMethod.read(self, path, network, trained)

    def save_artifacts(self, folder: Path, context: Context) -> None:
        PEFTMethod.save_artifacts(self, folder, context)
