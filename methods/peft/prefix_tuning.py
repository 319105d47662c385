"""Prefix tuning. Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL
2021, arXiv 2101.00190. Without its network and with a classifier this is P-Tuning v2 (Liu et al.,
ACL 2022, arXiv 2110.07602)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foundation.errors import UserError
from foundation.types import Count, Steps
from methods.peft.sites import Site, existing, find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network


def with_prefix(
    key: Tensor, value: Tensor, mask: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """K ← [P_k; K], V ← [P_v; V], with the mask extended: every query sees the prefix.

    key, value: [N, H, T, d_h]. rows: [P, 2, G·d_h], keys and values of G heads, each of which
    serves H/G heads that follow each other (grouped queries; G = H without). mask: None, boolean
    (True is seen) or added to the scores, [..., T].
    """
    batch = key.shape[0]
    both = rows.to(key.dtype).view(len(rows), 2, -1, key.shape[-1]).permute(1, 2, 0, 3)
    groups = both.shape[1]
    if groups != key.shape[1]:
        both = both.repeat_interleave(key.shape[1] // groups, dim=1)
    pk, pv = both.unsqueeze(1).expand(2, batch, *both.shape[1:])
    wide = None if mask is None else widened(mask, len(rows))
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
    [P, e]."""

    def __init__(self, length: int, layers: int, width: int, hidden: int, device: torch.device):
        super().__init__()
        self.width = width
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
        given["attn_mask"] = self.masks.widen(given.get("attn_mask"), len(self.rows))
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

    def enter(self, module: nn.Module, args: Any) -> None:
        self.on.append(Widened(self.prefix.rows(self.layer), self.masks))
        self.on[-1].__enter__()

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        # this hook is called even if an error prevented the entry
        if self.on:
            self.on.pop().__exit__(None, None, None)
        if self.last:
            self.masks.forget()


def key_width(site: Site) -> int:
    """Width of the keys that a layer computes; a fused layer computes queries and values too."""
    outputs = len(site.weight)
    return outputs // 3 if site.role == "attn.qkv" else outputs


class PrefixTuning(PEFTMethod):
    """Attn(q, [P_k; K], [P_v; V]) = (1-λ) Attn(q, K, V) + λ Attn(q, P_k, P_v): learned rows in
    every attention.

    P_k, P_v: [P, d] per layer, never masked, seen by all queries. Positions of the tokens are not
    shifted, so the longest text stays the same (libraries that pass the rows as a cache shift
    them). Even a zero prefix takes attention from the tokens, so the output changes before
    training. An attention that runs several times (ALBERT) has one prefix. Rows have no weight
    decay. Learning rates: AdamW 1e-3 to 1e-2; with the MLP about 5e-5.

    length: rows P in every attention, at least 1; 10 (paper: 10 for table-to-text).
    hidden: width of the MLP that makes the rows, at least 0; 0: none (P-Tuning v2; paper: 512).
        [P_k^1, P_v^1, …]_i = W₂ tanh(W₁ E_i); without it the rows themselves are trained, from N(0,
        0.02²).
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(tags=("delta",))
    preserves: bool = False

    def __init__(
        self,
        length: Count = 10,
        hidden: Steps = 0,
        load: str | None = None,
    ):
        self.length = length
        self.hidden = hidden
        self.load = load

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        sites = self.keys(backbone)
        (width,) = {key_width(site) for site in sites}
        prefix = Prefix(self.length, len(sites), width, self.hidden, sites[0].weight.device)
        network.deltas[self.key] = prefix
        masks = Masks()
        for layer, site in enumerate(sites):
            attention = backbone.get_submodule(site.name.rpartition(".")[0])
            here = AtLayer(prefix, layer, masks, last=layer == len(sites) - 1)
            attention.register_forward_pre_hook(here.enter)
            attention.register_forward_hook(here.leave, always_call=True)

    def keys(self, backbone: nn.Module) -> list[Site]:
        """The layers that compute keys, one per attention."""
        found = find_sites(backbone)
        sites = [site for site in found if site.role in ("attn.k", "attn.qkv")]
        if not sites:
            raise UserError(
                f"methods.{self.key}: a prefix needs attention, and {type(backbone).__name__} has "
                f"{existing(found)}; use peft=lora, or a transformer as network"
            )
        if len({len(site.weight) for site in sites}) > 1:
            raise UserError(
                f"methods.{self.key}: the attentions of {type(backbone).__name__} differ in width, "
                "as window attentions do, for which a prefix is not defined; use peft=lora, or a "
                "ViT as network"
            )
        return sites

    def parameter_groups(self, context: Any) -> list[dict[str, Any]]:
        """Without weight decay: a zero prefix is not a neutral one."""
        return [
            {"params": list(context.network.deltas[self.key].parameters()), "weight_decay": 0.0}
        ]
