"""Learned rows among the keys and values of attention, and how they get there.

While an attention runs, torch's `scaled_dot_product_attention` is replaced by one that sees the
rows: projections, norms and rotations of the network stay as they are.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foundation.errors import UserError
from methods.peft.prompt_tuning import first_position
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork


def with_prefix(
    key: Tensor, value: Tensor, mask: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """K ← [P_k; K], V ← [P_v; V], with the mask extended: every query sees the prefix.

    key, value: [N, H, T, d_h]. rows: [P, 2, G·d_h], keys and values of G heads, each of which
    serves H/G heads that follow each other (grouped queries; G = H without); [N, P, 2, G·d_h] if
    every sample has its own. mask: None, boolean (True is seen) or added to the scores, [..., T].
    """
    both = rows.to(key.dtype).unflatten(-1, (-1, key.shape[-1])).movedim(-3, 0).transpose(-3, -2)
    groups = both.shape[-3]
    if groups != key.shape[1]:
        both = both.repeat_interleave(key.shape[1] // groups, dim=-3)
    if rows.ndim == 3:
        both = both.unsqueeze(1).expand(2, key.shape[0], *both.shape[1:])
    pk, pv = both
    wide = None if mask is None else widened(mask, both.shape[-2])
    return torch.cat([pk, key], dim=2), torch.cat([pv, value], dim=2), wide


def widened(mask: Tensor, length: int) -> Tensor:
    """A mask [..., T] with `length` visible positions in front: [..., P + T]."""
    visible = mask.new_full((*mask.shape[:-1], length), not mask.is_floating_point())
    return torch.cat([visible, mask], dim=-1)


class Masks:
    """The extended mask of one forward. Encoders pass the same mask to all their attentions: it is
    extended once, and the backward keeps one copy instead of one per layer."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.given: Tensor | None = None
        self.wide: Tensor | None = None

    def widen(self, mask: Tensor | None, length: int) -> Tensor | None:
        if mask is not None and mask is not self.given:
            self.given = mask
            self.wide = widened(mask, length)
        return None if mask is None else self.wide


class Prefix(nn.Module):
    """The rows of all layers: a table [P, L, 2, d], or computed by an MLP from embeddings E
    [P, e]. dropout: of the rows, drawn for every sample."""

    def __init__(
        self,
        length: int,
        layers: int,
        width: int,
        hidden: int,
        device: torch.device,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.length = length
        self.layers = layers
        self.width = width
        self.dropout = nn.Dropout(dropout)
        if hidden:
            self.embedding = nn.Parameter(torch.randn(length, width, device=device))
            self.down = nn.Linear(width, hidden, device=device)
            self.up = nn.Linear(hidden, layers * 2 * width, device=device)
        else:
            self.table = nn.Parameter(0.02 * torch.randn(length, layers, 2, width, device=device))

    def rows(self, layer: int) -> Tensor:
        """[P, 2, d] of one layer. Only this layer's rows of the MLP's last matrix are used."""
        if hasattr(self, "table"):
            return self.table[:, layer]
        part = slice(layer * 2 * self.width, (layer + 1) * 2 * self.width)
        hidden = torch.tanh(self.down(self.embedding))
        rows = F.linear(hidden, self.up.weight[part], self.up.bias[part])
        return rows.view(-1, 2, self.width)

    def seen(self, layer: int, x: Tensor) -> Tensor:
        """The rows that an attention with the input x, [N, T, d], sees: [P, 2, d], or [N, P, 2, d]
        if they differ between samples."""
        rows = self.rows(layer)
        if self.training and self.dropout.p:
            rows = self.dropout(rows.expand(len(x), *rows.shape))
        return rows

    def mode(self, layer: int, x: Tensor, masks: "Masks") -> "Widened":
        """What is active while the attention runs."""
        return Widened(self.seen(layer, x), masks)

    def all_rows(self) -> Tensor:
        """[P, 2Ld], in the peft library's order."""
        return torch.cat([self.rows(layer).flatten(1) for layer in range(self.layers)], dim=1)


# positional arguments of F.scaled_dot_product_attention
ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class Widened(TorchFunctionMode):
    """While it is active, torch's attention sees the prefix of one layer. What the network computes
    before it (projections with their own deltas, normalised or rotated queries and keys) and after
    it is unchanged."""

    def __init__(self, rows: Tensor, masks: Masks | None = None):
        super().__init__()
        self.rows = rows
        self.masks = masks or Masks()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(ATTENTION_ARGUMENTS, args, strict=False)) | kwargs
        if given.get("attn_mask") is None and given.get("is_causal"):
            # torch would count the prefix as the first tokens
            length = given["key"].shape[2]
            seen = torch.ones(length, length, dtype=torch.bool, device=given["key"].device)
            given |= {"attn_mask": seen.tril(), "is_causal": False}
        given["key"], given["value"], _ = with_prefix(given["key"], given["value"], None, self.rows)
        given["attn_mask"] = self.masks.widen(given.get("attn_mask"), self.rows.shape[-3])
        return func(**given)


class AtLayer:
    """The hooks of one attention: its prefix is active from its entry to its exit.

    masks: shared by all attentions of a network.
    last: whether it is the last attention of a forward.
    """

    def __init__(self, prefix: Prefix, layer: int, masks: Masks, last: bool):
        self.prefix = prefix
        self.layer = layer
        self.masks = masks
        self.last = last
        self.on: list[Widened] = []

    def enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        self.on.append(self.prefix.mode(self.layer, x, self.masks))
        self.on[-1].__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        # this hook is called even if an error prevented the entry
        if self.on:
            self.on.pop().__exit__(None, None, None)
        if self.last:
            self.masks.forget()


class Shift:
    """A hook on a text encoder: its tokens get the positions behind P rows, from `start` on."""

    def __init__(self, start: int):
        self.start = start

    def before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        texts, tokens = kwargs["inputs_embeds"].shape[:2]
        places = torch.arange(tokens, device=kwargs["inputs_embeds"].device)
        return args, kwargs | {"position_ids": (self.start + places).expand(texts, -1)}


def shift_positions(network: Network, length: int, option: str) -> None:
    """Let a text encoder count `length` positions before its tokens. option: the user's setting.

    Raises UserError for a network without positions by number."""
    first = first_position(network) if isinstance(network, TextNetwork) else None
    if first is None or not isinstance(network, TextNetwork):
        problem = f"{type(network.backbone).__name__} takes no positions"
        raise UserError(option, problem, "use keep")
    shift = Shift(first + length)
    network.backbone.register_forward_pre_hook(shift.before, with_kwargs=True)
    if network.max_length is not None:
        network.max_length -= length
