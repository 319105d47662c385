"""GLoRA. Chavan et al., One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning, 2023,
arXiv 2306.07967."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count
from methods.peft.glora_format import read_glora, write_glora
from methods.peft.lora import LoRA
from methods.peft.sites import Site, is_linear
from methods.peft.weights import WeightDelta, attach
from recipes.contract import Declaration
from recipes.networks.network import Network

Kind = Literal["lora", "vector", "scalar", "none"]


def changed_weight(weight: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """W + W ⊙ A + B. weight: [d_out, n]; a, b: [d_out, n], [d_out, 1] or [1, 1]; None: zero."""
    changed = weight
    if a is not None:
        changed = torch.addcmul(changed, weight, a.to(weight.dtype))
    return changed if b is None else changed + b.to(weight.dtype)


def bias_change(
    weight: Tensor,
    bias: Tensor | None,
    c: Tensor | None,
    d: Tensor | None,
    e: Tensor | None,
) -> Tensor | None:
    """W C + D ⊙ b + E, [d_out]; None if there is none of them. weight: [d_out, n]; bias: [d_out] or
    None; c: [n, 1]; d, e: [d_out] or [1]."""
    parts = []
    if c is not None:
        parts.append((weight @ c.to(weight.dtype)).squeeze(1))
    if d is not None and bias is not None:
        parts.append(d * bias)
    if e is not None:
        parts.append(e.expand(len(weight)))
    return sum(parts[1:], parts[0]) if parts else None


class Support(nn.Module):
    """A matrix [rows, columns] of few parameters, zero at the start: `lora` down · up with the rows
    of `up` Xavier-uniform, `vector` one number a row, `scalar` one number."""

    def __init__(self, kind: Kind, rows: int, columns: int, rank: int, like: Tensor):
        super().__init__()
        self.kind = kind
        heights = {"lora": (rows, rank), "vector": (rows, 1), "scalar": (1, 1)}
        self.down = nn.Parameter(torch.zeros(heights[kind], device=like.device))
        if kind == "lora":
            self.up = nn.Parameter(torch.empty(rank, columns, device=like.device))
            nn.init.xavier_uniform_(self.up)

    def forward(self) -> Tensor:
        return self.down @ self.up if self.kind == "lora" else self.down


def biases(kind: Kind, size: int, like: Tensor) -> nn.Parameter | None:
    """A vector [size], one number [1], or nothing; zero at the start."""
    if kind == "none":
        return None
    return nn.Parameter(torch.zeros(1 if kind == "scalar" else size, device=like.device))


class General(WeightDelta):
    """W + W ⊙ A + B and b + W C + D ⊙ b + E on the rows of a site. A layer without bias has no
    D."""

    materialised = True

    def __init__(self, site: Site, rank: int, kinds: dict[str, Kind]):
        super().__init__(site)
        weight = site.weight
        start, stop = site.rows or (0, len(weight))
        outputs = stop - start
        inputs = weight[0].numel()
        shapes = {"a": (outputs, inputs), "b": (outputs, inputs), "c": (inputs, 1)}
        for name, (rows, columns) in shapes.items():
            kind = kinds[name]
            support = None if kind == "none" else Support(kind, rows, columns, rank, weight)
            setattr(self, name, support)
        self.rank = rank
        self.linear = is_linear(site.module)
        self.has_bias = site.module.bias is not None
        self.e = biases(kinds["e"], outputs, weight)
        self.d = biases(kinds["d"] if self.has_bias else "none", outputs, weight)

    def own(self, rows: Tensor) -> Tensor:
        """The rows of a layer's weight or bias that this delta changes."""
        return rows if self.rows is None else rows[slice(*self.rows)]

    def value(self, name: str) -> Tensor | None:
        """A, B or C; None if it is not there."""
        support = getattr(self, name)
        return None if support is None else support()

    def changed(self, weight: Tensor) -> Tensor:
        own = self.own(weight)
        made = changed_weight(own.flatten(1), self.value("a"), self.value("b")).view_as(own)
        if self.rows is None:
            return made
        start, stop = self.rows
        return torch.cat([weight[:start], made, weight[stop:]])

    def shift(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        own_bias = None if bias is None else self.own(bias)
        own = self.own(weight).flatten(1)
        made = bias_change(own, own_bias, self.value("c"), self.d, self.e)
        if made is None or self.rows is None:
            return made
        start, stop = self.rows
        return F.pad(made, (start, self.outputs - stop))


class GLoRA(LoRA):
    """y = (W + W ⊙ A + B) x + b + W C + D ⊙ b + E: a frozen layer gets a scaled and shifted weight
    and bias, of which each part has its own form.

    A, B: [d_out, d_in]; C: [d_in, 1]; D, E: [d_out]. All start at zero, so the output is unchanged
    before training, and all of it can be merged; a layer without bias has no D, and gets a bias by
    C and E when merged. W ⊙ A is elementwise, as in the authors' code and the peft library; the
    paper writes a product. The changed weight is computed in every step: the cost is that of a
    gradient of W. The authors' search over forms per layer is not part of it: the forms below hold
    for all layers. It changes the same weights as LoRA and DoRA and refuses them. Learning rates:
    AdamW 1e-4 to 1e-3.

    rank: r of the `lora` forms, at least 1; 4 (paper).
    a: form of A: `lora`, `vector` (one number a row), `scalar` or `none`.
    b: form of B: `lora`, `vector`, `scalar` or `none`.
    c: form of C: `lora`, `vector` or `none`.
    d: form of D: `vector`, `scalar` or `none`.
    e: form of E: `vector`, `scalar` or `none`.
    targets: layers by role or pattern, as for `lora`; null: queries and values, else convolutions.
    qkv: a fused query-key-value layer has supports for each part, `split`, or in common, `shared`
        (peft).
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
    """

    declaration = Declaration(
        tags=("delta", "low_rank"),
        refuses={"low_rank": "B is a LoRA already, and the scale A would not be that of the sum"},
    )

    def __init__(
        self,
        rank: Count = 4,
        a: Kind = "lora",
        b: Kind = "lora",
        c: Literal["lora", "vector", "none"] = "lora",
        d: Literal["vector", "scalar", "none"] = "vector",
        e: Literal["vector", "scalar", "none"] = "vector",
        targets: list[str] | None = None,
        qkv: Literal["split", "shared"] = "split",
        load: str | None = None,
    ):
        super().__init__(rank, targets=targets, qkv=qkv, load=load)
        self.kinds: dict[str, Kind] = {"a": a, "b": b, "c": c, "d": d, "e": e}

    def declare(self) -> Declaration:
        if all(kind == "none" for kind in self.kinds.values()):
            problem = "a, b, c, d and e are all 'none', so nothing would be trained"
            raise UserError(f"methods.{self.key}", problem, "give one of them a form")
        return self.declaration

    def attach(self, network: Network) -> None:
        sites = list(self.sites(network))
        deltas = [General(site, self.rank, self.kinds) for site in sites]
        network.deltas[self.key] = nn.ModuleList(deltas)
        silent = attach(network, deltas)
        shifting = [name for name in ("c", "d", "e") if self.kinds[name] != "none"]
        if silent and shifting:
            layer = network.backbone.get_submodule(silent[0].site)
            what = "linear layer" if is_linear(layer) else "convolution"
            raise UserError(
                f"methods.{self.key}.{shifting[0]}={self.kinds[shifting[0]]}",
                f"{type(network.backbone).__name__} reads the weight of the {what} "
                f"'{silent[0].site}' without calling it, so its bias cannot be changed",
                " and ".join(f"set methods.{self.key}.{name}=none" for name in shifting),
            )

    def may_be_idle(self, name: str) -> bool:
        # D scales the bias, which is zero in a fresh network
        return name.endswith(".d")

    read_folder = staticmethod(read_glora)
    write_folder = staticmethod(write_glora)
