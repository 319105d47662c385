"""Prefix tuning. Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL
2021, arXiv 2101.00190."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from foundation.errors import UserError
from foundation.types import Count, Steps
from methods.peft.peft_format import is_peft
from methods.peft.prefixes import AtLayer, Masks, Prefix, shift_positions
from methods.peft.prompt_format import read_rows, write_rows
from methods.peft.sites import Site, existing, find_sites
from methods.peft.surgeon import PEFTMethod, averaged
from recipes.contract import Context, Declaration
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork


def key_width(sites: Sequence[Site]) -> int:
    """Width of the keys that all these layers compute; a fused layer computes queries and values
    too."""
    widths = {len(s.weight) // 3 if s.role == "attn.qkv" else len(s.weight) for s in sites}
    (width,) = widths
    return width


def hidden_dropout(network: Network) -> float:
    """The dropout of a text encoder's hidden states, by its configuration; 0 for pictures."""
    config = getattr(network.backbone, "config", None)
    for name in ("hidden_dropout_prob", "dropout", "resid_pdrop", "mlp_dropout"):
        value = getattr(config, name, None)
        if isinstance(value, float):
            return value
    return 0.0


class PrefixTuning(PEFTMethod):
    """Attn(q, [P_k; K], [P_v; V]) = (1-λ) Attn(q, K, V) + λ Attn(q, P_k, P_v): learned rows in
    every attention.

    P_k, P_v: [P, d] per layer, never masked, seen by all queries. Even a zero prefix takes
    attention from the tokens, so the output changes before training. An attention that runs several
    times (ALBERT) has one prefix. Rows have no weight decay. Learning rates: AdamW 1e-3 to 1e-2;
    with the MLP about 5e-5.

    length: rows P in every attention, at least 1; 10 (paper: 10 for table-to-text).
    hidden: width of the MLP that makes the rows, at least 0; 0: none (`p_tuning_v2`; paper: 512).
        [P_k^1, P_v^1, …]_i = W₂ tanh(W₁ E_i); without it the rows themselves are trained, from N(0,
        0.02²).
    positions: `keep` the tokens' positions (ours), or `shift` them by P, as rows in a cache do.
        With shift, as in the peft library and the authors' code, P of the encoder's positions are
        lost for texts.
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
        A run on texts with positions=shift writes such a folder.
    """

    declaration = Declaration(tags=("delta",))
    preserves: bool = False
    dropout: float | None = 0.0

    def __init__(
        self,
        length: Count = 10,
        hidden: Steps = 0,
        positions: Literal["keep", "shift"] = "keep",
        load: str | None = None,
    ):
        self.length = length
        self.hidden = hidden
        self.positions = positions
        self.load = load

    def attach(self, network: Network) -> None:
        network.deltas[self.key] = self.added(network)

    def added(self, network: Network) -> Prefix:
        """Attach the rows to every attention, and return their module."""
        backbone = network.backbone
        sites = self.keys(backbone)
        if self.positions == "shift":
            shift_positions(network, self.length, f"methods.{self.key}.positions=shift")
        prefix = self.prefix(network, sites)
        masks = Masks()
        for layer, site in enumerate(sites):
            attention = backbone.get_submodule(site.name.rpartition(".")[0])
            here = AtLayer(prefix, layer, masks, last=layer == len(sites) - 1)
            attention.register_forward_pre_hook(here.enter, with_kwargs=True)
            attention.register_forward_hook(here.leave, always_call=True)
        return prefix

    def prefix(self, network: Network, sites: list[Site]) -> Prefix:
        """The rows of all sites."""
        width = key_width(sites)
        device = sites[0].weight.device
        dropout = hidden_dropout(network) if self.dropout is None else self.dropout
        return Prefix(self.length, len(sites), width, self.hidden, device, dropout)

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

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        if not is_peft(path):
            return super().read(path, network, trained)
        if self.hidden:
            raise UserError(
                f"methods.{self.key}.load={path}",
                "a folder of the peft library has the rows, not the MLP that makes them",
                f"set methods.{self.key}.hidden=0",
            )
        prefix = self.own(network)
        shape = (prefix.length, 2 * prefix.layers * prefix.width)
        rows = read_rows(path, ("PREFIX_TUNING",), shape, f"methods.{self.key}.load")
        with torch.no_grad():
            prefix.table.copy_(rows.view_as(prefix.table))

    def own(self, network: Network) -> Prefix:
        prefix = network.deltas[self.key]
        assert isinstance(prefix, Prefix)
        return prefix

    def save_artifacts(self, folder: Path, context: Context) -> None:
        super().save_artifacts(folder, context)
        network = averaged(context) or context.network
        if self.positions == "keep" or not isinstance(network, TextNetwork):
            return  # the library would compute something else
        prefix = self.own(network)
        with torch.no_grad():
            rows = prefix.all_rows()
        settings = {"prefix_projection": bool(self.hidden), "encoder_hidden_size": self.hidden}
        folder = folder / f"{self.key}_peft"
        write_rows(
            folder, "PREFIX_TUNING", rows, prefix.width, network, layers=prefix.layers, **settings
        )
