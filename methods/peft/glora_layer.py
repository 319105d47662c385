"""A frozen layer with scaled and shifted weight and bias: the mathematics and modules of GLoRA."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.glora_forms import Kind, part
from methods.peft.sites import Site, is_linear
from methods.peft.weights import WeightDelta


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
        return self.as_form(self.kind)

    def as_form(self, kind: Kind) -> Tensor:
        """The matrix in this form or, of a larger one, with the entries that a smaller form has."""
        if kind == "lora":
            return self.down @ self.up
        return part(self.down, kind)


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
        self.height = outputs
        self.width = inputs
        self.rank = rank
        self.linear = is_linear(site.module)
        self.has_bias = site.module.bias is not None
        self.e = biases(kinds["e"], outputs, weight)
        self.d = biases(kinds["d"] if self.has_bias else "none", outputs, weight)

    def own(self, rows: Tensor) -> Tensor:
        """The rows of a layer's weight or bias that this delta changes."""
        return rows if self.rows is None else rows[slice(*self.rows)]

    def value(self, name: str) -> Tensor | None:
        """A, B, C, D or E; None if it is not there."""
        support = getattr(self, name)
        return support() if isinstance(support, Support) else support

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
        made = bias_change(own, own_bias, *map(self.value, "cde"))
        if made is None or self.rows is None:
            return made
        start, stop = self.rows
        return F.pad(made, (start, self.outputs - stop))
