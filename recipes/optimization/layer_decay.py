"""Layer-wise decay of the learning rate: layers near the input train more slowly (Clark et al.,
ELECTRA, ICLR 2020, arXiv 2003.10555; for images Bao et al., BEiT, arXiv 2106.08254)."""

import re
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from foundation.errors import UserError

# numbered blocks of text encoders: `encoder.layer.3.`, `layers.3.`, `block.3.`, `h.3.`
BLOCK = re.compile(r"(?:^|\.)(?:layers?|blocks?|h|groups?)\.(\d+)\.")
EMBEDDING = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.")


def scale_layers(backbone: nn.Module, decay: float) -> None:
    """Give every parameter of a backbone of L layers its factor decay^(L - l), l = 0 for the
    embedding and L for the last layer, whose factor is 1, like that of heads. Raises UserError as
    `checked_depths`."""
    depths = checked_depths(backbone, decay)
    last = max(depths.values())
    for name, parameter in backbone.named_parameters():
        parameter._lr_scale = decay ** (last - depths[name])  # type: ignore[attr-defined]


def checked_depths(backbone: nn.Module, decay: float) -> Mapping[str, int]:
    """The layer of every parameter. Raises UserError for a network that does not say its layers."""
    depths = layer_depths(backbone)
    if len(set(depths.values())) < 2:
        name = type(backbone).__name__
        problem = f"{name} does not say which layer a weight belongs to"
        raise UserError(
            f"optimizer.layer_decay={decay:g}",
            problem,
            "expected 1, or a model of timm or a text encoder",
        )
    return depths


def layer_depths(backbone: nn.Module) -> Mapping[str, int]:
    """The layer of every parameter by its name, from 0; all 0 where nothing tells."""
    if hasattr(backbone, "group_matcher"):
        from timm.models import group_parameters

        matcher = cast(Any, backbone).group_matcher(coarse=False)
        found = group_parameters(backbone, matcher, reverse=True)
        return {str(name): int(layer) for name, layer in found.items()}
    names = [name for name, _ in backbone.named_parameters()]
    if not hasattr(backbone, "get_input_embeddings"):
        return dict.fromkeys(names, 0)
    blocks = {name: BLOCK.search(name) for name in names}
    count = 1 + max((int(block[1]) for block in blocks.values() if block), default=-1)
    return {name: depth_of(name, block, count) for name, block in blocks.items()}


def depth_of(name: str, block: re.Match[str] | None, count: int) -> int:
    """Embeddings are layer 0, block i is layer i + 1, what is behind the blocks is in the last."""
    if block:
        return int(block[1]) + 1
    return 0 if EMBEDDING.search(name) else count
