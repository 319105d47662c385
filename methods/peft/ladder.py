"""The side network of `ladder_side_tuning`: its blocks, its rungs, its hooks on the backbone."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.side_pruning import (
    Importance,
    fill_attention,
    fill_mlp,
    kept_states,
    layers_of,
    select_states,
)
from recipes.networks.taps import INPUT, tapped

SideBlock = Literal["transformer", "mlp"]
HEAD = 8  # least width of a head


def heads_for(width: int) -> int:
    """The most heads of width 8 or more that divide a width; 1 for a small one."""
    return max((h for h in range(1, width // HEAD + 1) if width % h == 0), default=1)


class Attention(nn.Module):
    """Self-attention of the side network, without biases: that of keys would have no effect."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = heads_for(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        visible = None if mask is None else mask[:, None, None, :].bool()
        seen = F.scaled_dot_product_attention(query, key, value, visible)
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """g: z + Attn(LN z), then z + MLP(LN z); without attention, g is the second part alone."""

    def __init__(self, width: int, kind: SideBlock):
        super().__init__()
        self.attention: Attention | None = None
        if kind == "transformer":
            self.first_norm = nn.LayerNorm(width)
            self.attention = Attention(width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.attention is not None:
            x = x + self.attention(self.first_norm(x), mask)
        return x + self.mlp(self.norm(x))


class Rung(nn.Module):
    """s ← g(μ s + (1 - μ) D h), μ = sigmoid(α / T)."""

    def __init__(self, width: int, side: int, kind: SideBlock, temperature: float):
        super().__init__()
        self.down = nn.Linear(width, side)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.block = Block(side, kind)
        self.temperature = temperature

    def forward(self, s: Tensor, h: Tensor, mask: Tensor | None) -> Tensor:
        share = torch.sigmoid(self.alpha / self.temperature).to(s.dtype)
        return self.block(share * s + (1 - share) * self.down(h), mask)  # type: ignore[no-any-return]


class Ladder(nn.Module):
    """The side network, and the hooks by which it reads the backbone and takes the place of the
    last block's output.

    names: blocks of the backbone. kept: which of them have a rung. aside: the backbone runs as if
        there were no ladder.
    """

    def __init__(
        self,
        names: Sequence[str],
        kept: Sequence[int],
        width: int,
        side: int,
        kind: SideBlock,
        temperature: float,
    ):
        super().__init__()
        self.names = tuple(names)
        self.kept = tuple(kept)
        self.first = nn.Linear(width, side)
        self.rungs = nn.ModuleList([Rung(width, side, kind, temperature) for _ in kept])
        self.norm = nn.LayerNorm(side)
        self.up = nn.Linear(side, width)
        self.aside = False
        self.forget()

    def forward(self, states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """U LN(s_L). states: h_0 … h_L, each [N, T, d]; mask: [N, T] or None."""
        s = self.first(states[0])
        for i, rung in zip(self.kept, self.rungs, strict=True):
            s = rung(s, states[i + 1], mask)
        return self.up(self.norm(s))  # type: ignore[no-any-return]

    def prune(self, backbone: nn.Module, importance: Importance, option: str) -> None:
        """Start from the weights of the backbone that matter most; gates and norms stay."""
        blocks = [layers_of(backbone, name, importance, option) for name in self.names]
        states = kept_states(blocks, self.first.out_features)
        select_states(self.first, states)
        select_states(self.up, states, back=True)
        for i, rung in zip(self.kept, cast(Iterable[Rung], self.rungs), strict=True):
            select_states(rung.down, states)
            fill_mlp(rung.block.mlp, blocks[i], states)
            attention = rung.block.attention
            if attention is not None:
                fill_attention(attention.qkv, attention.out, blocks[i], states)

    # -- hooks -------------------------------------------------------------------------------------
    def forget(self) -> None:
        self.open = ExitStack()
        self.seen: dict[str, Tensor] = {}
        self.mask: Tensor | None = None

    def enter(self, backbone: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """The backbone runs without a graph, unless somebody asks for the gradient of its input."""
        if self.aside:
            return
        x = args[0] if args else kwargs["inputs_embeds"]
        self.mask = kwargs.get("attention_mask")
        read = (INPUT, *self.names[:-1])
        self.seen = self.open.enter_context(tapped(backbone, read, self.names[0]))
        if not x.requires_grad:
            self.open.enter_context(torch.no_grad())

    def climb(self, block: nn.Module, args: Any, output: Any) -> Any:
        """In place of the last block's output: what follows it has a graph again."""
        if self.aside:
            return output
        self.open.close()
        last = output[0] if isinstance(output, tuple) else output
        states = [self.seen[name] for name in (INPUT, *self.names[:-1])]
        result = self([*states, last], self.mask).to(last.dtype)
        return (result, *output[1:]) if isinstance(output, tuple) else result

    def leave(self, backbone: nn.Module, args: Any, output: Any) -> None:
        """Called after an error as well."""
        self.open.close()
        self.forget()
