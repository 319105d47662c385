"""LoRA. Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685;
the scale of rsLoRA after Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with
LoRA, 2023, arXiv 2312.03732."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, ShareBelowOne
from methods.peft.peft_format import LowRankDelta, is_peft, read_peft, write_peft
from methods.peft.sites import Site, choose_sites, default_targets, find_sites, is_linear, thirds
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
    hidden = F.conv2d(padded(x, like), a, None, like.stride, unpadded(like), like.dilation)
    return F.conv2d(hidden, scale * b)


def padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The input of a convolution, padded if its padding mode is not `zeros`."""
    if conv.padding_mode == "zeros":
        return x
    return F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)


def unpadded(conv: nn.Conv2d) -> str | int | tuple[int, ...]:
    """The zero padding that remains after `padded`."""
    return conv.padding if conv.padding_mode == "zeros" else 0


class LowRank(LowRankDelta):
    """ΔW = s B A of a linear layer [d_out, d_in] or an ungrouped convolution [c_out, c_in, k, k],
    for which ΔW[o,i] = s Σ_r B[o,r] A[r,i]. B starts at zero."""

    def __init__(self, site: Site, rank: int, scale: float, dropout: float, init: Init):
        super().__init__(site)
        weight = site.weight
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

    @property
    def down(self) -> Tensor:
        """The first factor, from the layer's input to r numbers; a subclass may scale its rows."""
        return self.a

    def weight(self) -> Tensor:
        product = self.b.float().flatten(1) @ self.down.float().flatten(1)
        return self.scale * product.view(len(self.b), *self.a.shape[1:])

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        x = self.dropout(x)
        if isinstance(layer, nn.Conv2d):
            return conv_low_rank(x, self.down, self.b, self.scale, layer)
        return low_rank(x, self.down, self.b, self.scale)

    @classmethod
    def added(cls, deltas: Sequence[Self], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """y + s B A x; on a linear layer one product with all A, and one with all B that adds to
        y."""
        if not is_linear(layer):
            return super().added(deltas, layer, x, output)
        hidden = hidden_of(deltas, x)
        b = joint(deltas)
        if hidden.dtype != output.dtype:
            return output + F.linear(hidden, b).to(output.dtype)
        flat_output = output.reshape(-1, output.shape[-1])
        flat_hidden = hidden.reshape(-1, hidden.shape[-1])
        return torch.addmm(flat_output, flat_hidden, b.t()).view(output.shape)


def hidden_of(deltas: Sequence[LowRank], x: Tensor) -> Tensor:
    """A x of all deltas, [..., Σr]; with dropout, each has its own mask."""
    if any(delta.dropout.p and delta.dropout.training for delta in deltas):
        return torch.cat([F.linear(delta.dropout(x), delta.down) for delta in deltas], dim=-1)
    if len(deltas) == 1:
        return F.linear(x, deltas[0].down)
    return F.linear(x, torch.cat([delta.down for delta in deltas]))


def joint(deltas: Sequence[LowRank]) -> Tensor:
    """s B of all deltas, [d_out, Σr], zero in the rows that a delta does not change."""
    parts = []
    for delta in deltas:
        own = delta.b if delta.scale == 1.0 else delta.scale * delta.b
        if delta.rows is not None:
            start, stop = delta.rows
            own = F.pad(own, (0, 0, start, delta.outputs - stop))
        parts.append(own)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class LoRA(PEFTMethod):
    """y = W x + b + s · B A dropout(x), s = α/r: a frozen layer learns a change of rank r, ΔW = s B
    A.

    A: [r, d_in], B: [d_out, r]. B starts at zero, so the output is unchanged before training; ΔW
    can be merged into W. A convolution's A has the layer's kernel and B is 1x1 (as in the peft
    library; loralib differs). Where a network reads a layer's weight instead of calling the layer,
    dropout has no input and is not applied. Learning rates are 10 to 100 times those of full
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
        rank: Count = 8,
        alpha: Scale = 8.0,
        dropout: ShareBelowOne = 0.0,
        scaling: Literal["lora", "rslora"] = "lora",
        init: Init = "kaiming",
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.scaling = scaling
        self.init = init
        self.targets = targets
        self.qkv = qkv
        self.load = load

    delta: ClassVar[type[LowRank]] = LowRank

    @property
    def scale(self) -> float:
        """s of s · B A."""
        if self.scaling == "lora":
            return self.alpha / self.rank
        return self.alpha / math.sqrt(self.rank)

    def attach(self, network: Network) -> None:
        deltas = [
            self.delta(site, self.rank, self.scale, self.dropout, self.init)
            for site in self.sites(network)
        ]
        network.deltas[self.key] = nn.ModuleList(deltas)
        attach(network, deltas)

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        if not is_peft(path):
            return super().read(path, network, trained)
        prefix = getattr(network.backbone, "base_model_prefix", "")
        option = f"methods.{self.key}.load"
        return self.read_folder(path, self.deltas(network), prefix, option)

    def deltas(self, network: Network) -> list[Any]:
        """The deltas that `attach` has added, in the order of the layers."""
        return list(network.deltas[self.key].children())

    def save_artifacts(self, folder: Path, context: Context) -> None:
        super().save_artifacts(folder, context)
        network = averaged(context) or context.network
        self.write_folder(folder / f"{self.key}_peft", self.deltas(network))

    # the peft library's format
    read_folder = staticmethod(read_peft)
    write_folder = staticmethod(write_peft)

    def usual_targets(self, backbone: nn.Module) -> list[str]:
        """The layers that get a delta if the user names none."""
        return default_targets(backbone)

    def sites(self, network: Network) -> Iterator[Site]:
        """The layers that get a delta; with `qkv=split` the parts of a fused layer one by one."""
        backbone = network.backbone
        option = f"methods.{self.key}.targets"
        targets = self.targets or self.usual_targets(backbone)
        fused = {site.name: site for site in find_sites(backbone) if site.role == "attn.qkv"}
        if self.qkv == "shared" and fused:
            # any of the three names the whole layer
            shared = dict.fromkeys(("attn.q", "attn.k", "attn.v"), "attn.qkv")
            targets = [shared.get(target, target) for target in targets]
        for site in choose_sites(backbone, targets, option):
            if isinstance(site.module, nn.Conv2d) and site.module.groups > 1:
                raise UserError(
                    f"{option}: '{site.name}' is a grouped convolution; LoRA supports convolutions "
                    "with groups=1 only"
                )
            if not is_linear(site.module) and not isinstance(site.module, nn.Conv2d):
                raise UserError(
                    f"{option}: '{site.name}' is neither a linear layer nor a convolution"
                )
            if site.name in fused and site.rows is None and self.qkv == "split":
                yield from thirds(backbone, site, option)
            else:
                yield site
