"""LoRA. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685;
the scale of rsLoRA after Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with
LoRA, 2023, arXiv 2312.03732."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.peft_format import LowRankDelta, is_peft, read_peft, write_peft
from methods.peft.sites import Site, choose_sites, default_targets, find_sites, thirds
from methods.peft.surgeon import PEFTMethod, averaged
from methods.peft.weights import attach
from recipes.contract import Context, Declaration
from recipes.networks.network import Network

Init = Literal["kaiming", "gaussian"]


def low_rank(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """s · B A x. x: [..., d_in], a: [r, d_in], b: [d_out, r]."""
    return F.linear(F.linear(x, a), scale * b)


def conv_low_rank(x: Tensor, a: Tensor, b: Tensor, scale: float, like: nn.Conv2d) -> Tensor:
    """s · B * (A * x): the layer's own kernel to r channels, then 1x1. a: [r, c_in, k, k], b:
    [c_out, r, 1, 1]."""
    return F.conv2d(
        F.conv2d(padded(x, like), a, None, like.stride, unpadded(like), like.dilation), scale * b
    )


def padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What convolutions with other borders than zeros do to their input first."""
    if conv.padding_mode == "zeros":
        return x
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)


def unpadded(conv: nn.Conv2d) -> str | int | tuple[int, ...]:
    return conv.padding if conv.padding_mode == "zeros" else 0


class LowRank(LowRankDelta):
    """ΔW = s B A of a linear layer [d_out, d_in] or an ungrouped convolution [c_out, c_in, k, k],
    there ΔW[o,i] = s Σ_r B[o,r] A[r,i]. B is zero at the start."""

    def __init__(self, site: Site, rank: int, scale: float, dropout: float, init: Init):
        super().__init__(site)
        weight: Tensor = site.module.weight
        outputs = len(weight) if site.rows is None else site.rows[1] - site.rows[0]
        ones = [1] * (weight.ndim - 2)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, *weight.shape[1:], device=weight.device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, *ones, device=weight.device))
        if init == "kaiming":
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        else:
            nn.init.normal_(self.a, std=1 / rank)

    def weight(self) -> Tensor:
        product = self.b.float().flatten(1) @ self.a.float().flatten(1)
        return self.scale * product.view(len(self.b), *self.a.shape[1:])

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        x = self.dropout(x)
        if isinstance(layer, nn.Conv2d):
            return conv_low_rank(x, self.a, self.b, self.scale, layer)
        return low_rank(x, self.a, self.b, self.scale)

    @staticmethod
    def added(deltas: Sequence["LowRank"], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """On a linear layer y + s B A x in one product with all the A, and one with all the B that
        adds to y."""
        if not isinstance(layer, nn.Linear):
            return LowRankDelta.added(deltas, layer, x, output)
        hidden = hidden_of(deltas, x)
        b = joint(deltas)
        if hidden.dtype != output.dtype:
            return output + F.linear(hidden, b).to(output.dtype)
        flat = torch.addmm(
            output.reshape(-1, output.shape[-1]), hidden.reshape(-1, hidden.shape[-1]), b.t()
        )
        return flat.view(output.shape)


def hidden_of(deltas: Sequence[LowRank], x: Tensor) -> Tensor:
    """A x of all deltas, [..., Σr]; where there is dropout, each has a mask of its own."""
    if any(delta.dropout.p and delta.dropout.training for delta in deltas):
        return torch.cat([F.linear(delta.dropout(x), delta.a) for delta in deltas], dim=-1)
    return F.linear(
        x, deltas[0].a if len(deltas) == 1 else torch.cat([delta.a for delta in deltas])
    )


def joint(deltas: Sequence[LowRank]) -> Tensor:
    """s B of all deltas, [d_out, Σr], zero in the rows that are not a delta's own."""
    parts = []
    for delta in deltas:
        above, below = (
            (0, 0) if delta.rows is None else (delta.rows[0], delta.outputs - delta.rows[1])
        )
        own = delta.b if delta.scale == 1.0 else delta.scale * delta.b
        parts.append(F.pad(own, (0, 0, above, below)) if above or below else own)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class LoRA(PEFTMethod):
    """y = W x + b + s · B A dropout(x), s = α/r: a frozen layer learns a change of rank r, ΔW = s B
    A.

    A: [r, d_in], B: [d_out, r]. B starts at zero, so the network starts as it was; ΔW can be merged
    into W without a trace. A convolution's A has the layer's kernel and B is 1x1 (the form of the
    peft library; loralib's differs). Where a layer's weight is read instead of the layer being
    called, dropout has no input to act on and is left out. Rates are 10 to 100 times those of full
    fine-tuning: AdamW 1e-4 to 2e-3.

    rank: rank r, at least 1; 8 (paper on RoBERTa).
    alpha: α of s = α/r, above 0; 8 (paper on RoBERTa-base; authors' scripts: 16). Changing r at
        fixed α changes s.
    dropout: dropout of the input of A, in [0, 1); 0; up to 0.1 is usual.
    scaling: s: `lora` α/r (paper) or `rslora` α/√r.
    init: start of A: `kaiming`, uniform in ±1/√d_in (authors' code), or `gaussian` N(0, 1/r²).
    targets: layers by role, e.g. [attn.q, mlp], or pattern; null: queries and values (paper), else
        convolutions. Roles (`attn.q`, `mlp`, `conv.kxk`), `all_linear`, or patterns on names, see
        `sites.py`. Networks without attention have all dense convolutions.
    qkv: a fused query-key-value layer has A and B for each part, `split`, or one pair, `shared`
        (peft). `split`: each on its own rows, as if the parts were separate layers; `shared`: one
        for the whole layer (what peft does), a different model.
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "low_rank"))

    def __init__(
        self,
        rank: Annotated[int, Field(ge=1)] = 8,
        alpha: Annotated[float, Field(gt=0)] = 8.0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        scaling: Literal["lora", "rslora"] = "lora",
        init: Init = "kaiming",
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        self.rank = rank
        self.dropout = dropout
        self.init = init
        self.qkv = qkv
        self.targets = targets
        self.alpha = alpha
        self.scaling = scaling
        self.load = load

    delta: ClassVar[type[LowRank]] = LowRank

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank if self.scaling == "lora" else math.sqrt(self.rank))

    def attach(self, network: Network) -> None:
        deltas = nn.ModuleList(
            self.delta(site, self.rank, self.scale, self.dropout, self.init)
            for site in self.sites(network)
        )
        network.deltas[self.key] = deltas
        attach(network, deltas)

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        if not is_peft(path):
            return super().read(path, network, trained)
        prefix = getattr(network.backbone, "base_model_prefix", "")
        return read_peft(
            path, list(network.deltas[self.key]), prefix, option=f"methods.{self.key}.load"
        )

    def save_artifacts(self, folder: Path, context: Context) -> None:
        super().save_artifacts(folder, context)
        network = averaged(context) or context.network
        write_peft(folder / f"{self.key}_peft", list(network.deltas[self.key]))

    def sites(self, network: Network) -> Iterator[Site]:
        """The layers that get a delta; rows of fused ones apart, unless they share."""
        backbone = network.backbone
        option = f"methods.{self.key}.targets"
        targets = self.targets or default_targets(backbone)
        fused = {site.name: site for site in find_sites(backbone) if site.role == "attn.qkv"}
        if self.qkv == "shared" and fused:
            # whichever of the three is named, the whole layer is meant
            targets = [
                "attn.qkv" if target in ("attn.q", "attn.k", "attn.v") else target
                for target in targets
            ]
        for site in choose_sites(backbone, targets, option):
            if isinstance(site.module, nn.Conv2d) and site.module.groups > 1:
                raise UserError(
                    f"{option}: '{site.name}' is a convolution in groups, which has no low rank to "
                    "learn"
                )
            if not isinstance(site.module, (nn.Linear, nn.Conv2d)):
                raise UserError(f"{option}: '{site.name}' is no linear layer or convolution")
            if site.name in fused and site.rows is None and self.qkv == "split":
                yield from thirds(backbone, site, option)
            else:
                yield site
