"""The weights of a narrow network from those of a wide one: the rows and columns that matter most
(for `ladder_side_tuning`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.sites import Site, find_sites, is_linear, oriented, part_of
from methods.peft.weights import own_bias

ATTENTION = ("attn.q", "attn.k", "attn.v")
Importance = Mapping[str, Tensor]  # by name of a parameter of the backbone


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block, or the rows of it that have a role: weight [out, in], bias, and
    the importance of the weight's entries."""

    weight: Tensor
    bias: Tensor | None
    importance: Tensor

    @property
    def of_rows(self) -> Tensor:
        return self.importance.sum(1)

    @property
    def of_columns(self) -> Tensor:
        return self.importance.sum(0)


def magnitudes(backbone: nn.Module) -> dict[str, Tensor]:
    """|W|, the importance that needs no data."""
    return {name: p.detach().abs() for name, p in backbone.named_parameters()}


def top(scores: Tensor, count: int) -> Tensor:
    """Positions of the `count` largest scores, in ascending order."""
    return scores.topk(min(count, len(scores))).indices.sort().values


def layers_of(
    backbone: nn.Module, block: str, importance: Importance, option: str
) -> dict[str, Layer]:
    """The layers of a block by role, of queries, keys and values each its own. Raises UserError
    where the block has none of a role, or gates."""
    sites: dict[str, Site] = {}
    for site in find_sites(backbone):
        if site.name.startswith(f"{block}.") and is_linear(site.module):
            sites.setdefault(site.role, site)
    if "attn.qkv" in sites:
        fused = sites["attn.qkv"]
        sites |= {role: part_of(backbone, fused, role, option) for role in ATTENTION}
    needed = (*ATTENTION, "attn.out", "mlp.in", "mlp.out")
    missing = [role for role in needed if role not in sites]
    found = {role: layer_of(sites[role], importance) for role in needed if role in sites}
    if missing:
        problem = f"'{block}' has no {' and no '.join(missing)} to take weights from"
        raise UserError(option, problem, "set init=random")
    if len(found["mlp.in"].weight) != found["mlp.out"].weight.shape[1]:
        problem = f"the feed-forward part of '{block}' has gates, which a side block lacks"
        raise UserError(option, problem, "set init=random")
    return found


def layer_of(site: Site, importance: Importance) -> Layer:
    scores = oriented(site.module, importance[f"{site.name}.weight"])
    weight = site.weight.detach()
    bias = own_bias(site.module)
    bias = None if bias is None else bias.detach()  # type: ignore[assignment]
    if site.rows is not None:
        rows = slice(*site.rows)
        weight, scores = weight[rows], scores[rows]
        bias = None if bias is None else bias[rows]  # type: ignore[assignment]
    return Layer(weight, bias, scores.float())


def kept_states(blocks: Sequence[Mapping[str, Layer]], width: int) -> Tensor:
    """The `width` numbers of the residual stream that matter most: by the columns of the layers
    that read it and the rows of those that write to it, over all blocks."""
    total = torch.zeros(())
    for layers in blocks:
        readers = sum(layers[role].of_columns for role in (*ATTENTION, "mlp.in"))
        writers = layers["attn.out"].of_rows + layers["mlp.out"].of_rows
        total = total.to(writers.device) + readers + writers
    return top(total, width)


@torch.no_grad()
def select_states(layer: nn.Linear, states: Tensor, *, back: bool = False) -> None:
    """A projection that takes these states out of the stream; `back`: that puts them into it, with
    zeros elsewhere."""
    layer.weight.zero_()
    layer.bias.zero_()
    narrow = torch.arange(len(states), device=states.device)
    if back:
        layer.weight[states, narrow] = 1.0
    else:
        layer.weight[narrow, states] = 1.0


@torch.no_grad()
def fill_mlp(mlp: nn.Sequential, layers: Mapping[str, Layer], states: Tensor) -> None:
    """The hidden units that matter most. Units that the wide network does not have stay as they
    were."""
    read, write = layers["mlp.in"], layers["mlp.out"]
    first, last = cast(nn.Linear, mlp[0]), cast(nn.Linear, mlp[-1])
    units = top(read.of_rows + write.of_columns, len(first.weight))
    first.weight[: len(units)] = read.weight[units][:, states]
    last.weight[:, : len(units)] = write.weight[states][:, units]
    if read.bias is not None:
        first.bias[: len(units)] = read.bias[units]
    if write.bias is not None:
        last.bias.copy_(write.bias[states])


@torch.no_grad()
def fill_attention(
    qkv: nn.Linear, out: nn.Linear, layers: Mapping[str, Layer], states: Tensor
) -> None:
    """Rows of queries and keys, which belong together, and of values with the columns of the output
    layer: those that matter most, in their order."""
    q, k, v = (layers[role] for role in ATTENTION)
    write = layers["attn.out"]
    width = len(out.weight)
    compared = top(q.of_rows + k.of_rows, width)
    carried = top(v.of_rows + write.of_columns, width)
    parts = [q.weight[compared], k.weight[compared], v.weight[carried]]
    qkv.weight.copy_(torch.cat([part[:, states] for part in parts]))
    out.weight.copy_(write.weight[states][:, carried])
    if write.bias is not None:
        out.bias.copy_(write.bias[states])
