"""Ladder side-tuning. Sung, Cho and Bansal, LST: Ladder Side-Tuning for Parameter and Memory
Efficient Transfer Learning, NeurIPS 2022, arXiv 2206.06522."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, Steps
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.sites import existing, find_blocks, find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network
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

    names: blocks of the backbone. kept: which of them have a rung.
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
        self.forget()

    def forward(self, states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """U LN(s_L). states: h_0 … h_L, each [N, T, d]; mask: [N, T] or None."""
        s = self.first(states[0])
        for i, rung in zip(self.kept, self.rungs, strict=True):
            s = rung(s, states[i + 1], mask)
        return self.up(self.norm(s))  # type: ignore[no-any-return]

    # -- hooks -------------------------------------------------------------------------------------
    def forget(self) -> None:
        self.open = ExitStack()
        self.seen: dict[str, Tensor] = {}
        self.mask: Tensor | None = None

    def enter(self, backbone: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """The backbone runs without a graph, unless somebody asks for the gradient of its input."""
        x = args[0] if args else kwargs["inputs_embeds"]
        self.mask = kwargs.get("attention_mask")
        read = (INPUT, *self.names[:-1])
        self.seen = self.open.enter_context(tapped(backbone, read, self.names[0]))
        if not x.requires_grad:
            self.open.enter_context(torch.no_grad())

    def climb(self, block: nn.Module, args: Any, output: Any) -> Any:
        """In place of the last block's output: what follows it has a graph again."""
        self.open.close()
        last = output[0] if isinstance(output, tuple) else output
        states = [self.seen[name] for name in (INPUT, *self.names[:-1])]
        result = self([*states, last], self.mask).to(last.dtype)
        return (result, *output[1:]) if isinstance(output, tuple) else result

    def leave(self, backbone: nn.Module, args: Any, output: Any) -> None:
        """Called after an error as well."""
        self.open.close()
        self.forget()


class LadderSideTuning(PEFTMethod):
    """s_0 = D_0 h_0, s_i = g_i(μ_i s_{i-1} + (1 - μ_i) D_i h_i), μ_i = sigmoid(α_i / T): a narrow
    network beside a frozen one reads its states h_i, and U LN(s_L) replaces the last.

    No gradient flows through the backbone, which runs without a graph: the memory of a step is that
    of inference and of the side network. What follows the last block (norm, pooling) and the heads
    read U LN(s_L). Where the gradient of the input is asked for (attacks, VAT), that forward builds
    a graph. Differs from the authors' code: side blocks are pre-norm whatever the backbone's are,
    their heads are at least 8 wide, and they start at random (authors: from pruned weights of the
    backbone, which is better). A block that runs several times (ALBERT) has one rung. Learning
    rates: AdamW 3e-3 (authors).

    reduction: width of the backbone over that of the side network, at least 1; 8.
    side_block: blocks g_i: `transformer`, attention and MLP (paper), or `mlp`, the MLP alone.
    temperature: T of the gates, above 0; 0.1.
    drop_every: of so many blocks the first has no rung; 0: all have one (authors' T5-base: 4).
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(
        tags=("delta",),
        refuses={
            "delta": (
                "it trains without a gradient through the backbone, in which the other trains; "
                "leave one out"
            ),
            "features_by_task": (
                "its side network replaces the end of one trunk, and tasks have several; leave one "
                "out"
            ),
        },
        uncompiled="the gradient is switched off and on within its forward",
    )
    preserves: bool = False

    def __init__(
        self,
        reduction: Count = 8,
        side_block: SideBlock = "transformer",
        temperature: Scale = 0.1,
        drop_every: Steps = 0,
        load: str | None = None,
    ):
        self.reduction = reduction
        self.side_block = side_block
        self.temperature = temperature
        self.drop_every = drop_every
        self.load = load

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        names = find_blocks(backbone)
        if not names:
            raise UserError(
                f"methods.{self.key}: a ladder needs transformer blocks, and "
                f"{type(backbone).__name__} has {existing(find_sites(backbone))}; use peft=lora, "
                "or a transformer as network"
            )
        width = self.width(network, names)
        side = width // self.reduction
        if not side:
            raise UserError(
                f"methods.{self.key}.reduction={self.reduction}",
                f"the states of {type(backbone).__name__} are only {width} wide",
                f"set it to at most {width}",
            )
        kept = [i for i in range(len(names)) if not self.drop_every or i % self.drop_every]
        if not kept:
            raise UserError(
                f"methods.{self.key}.drop_every={self.drop_every}",
                f"none of {len(names)} block(s) keeps its rung",
                "set it to 0, or to at least 2",
            )
        ladder = Ladder(names, kept, width, side, self.side_block, self.temperature)
        ladder.to(next(backbone.parameters()).device)
        network.deltas[self.key] = ladder
        backbone.register_forward_pre_hook(ladder.enter, with_kwargs=True)
        backbone.get_submodule(names[-1]).register_forward_hook(ladder.climb)
        backbone.register_forward_hook(ladder.leave, always_call=True)

    def width(self, network: Network, names: Sequence[str]) -> int:
        """The width d of the states. Raises UserError if they are not all of one shape."""
        sites = find_sites(network.backbone)
        widths = {len(site.weight) for site in sites if site.role == "mlp.out"}
        shapes: set[tuple[int, ...]] = set()
        if not on_meta_device(network):
            reading = tapped(network.backbone, (INPUT, *names), names[0])
            with torch.no_grad(), trial_forward(network), reading as seen:
                network(network.example())
            shapes = {tuple(state.shape) for state in seen.values()}
        if len(widths) > 1 or len(shapes) > 1:
            raise UserError(
                f"methods.{self.key}: the blocks of {type(network.backbone).__name__} differ in "
                "the shape of their states, as those of windows do, and a ladder reads one shape; "
                "use peft=lora, or a ViT as network"
            )
        return widths.pop()
