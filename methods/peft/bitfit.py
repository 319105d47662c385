"""BitFit. Ben Zaken, Ravfogel and Goldberg, BitFit: Simple Parameter-efficient Fine-tuning for
Transformer-based Masked Language-models, ACL 2022, arXiv 2106.10199."""

import re
from typing import Literal

from torch import nn

from foundation.errors import UserError
from methods.peft.sites import find_sites
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network

# not the bias of a layer: tables and small networks of attention's position bias
_POSITION = re.compile(r"cpb_mlp|pos_mlp|rel_pos|relative_(?:position|attention)")
_QUERY_AND_MIDDLE = ("attn.q", "mlp.in")


def biases(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """Every bias of a linear layer, a convolution or a normalisation, by name; also parameters such
    as `q_bias`."""
    named = backbone.named_parameters()
    return {name: p for name, p in named if name.endswith("bias") and not _POSITION.search(name)}


def query_and_middle(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """The biases of queries and of the first feed-forward layer, which change most in training.
    With a fused layer, queries have such a bias only if it is a separate parameter (`q_bias` of
    BEiT and Swin-V2)."""
    sites = [site for site in find_sites(backbone) if site.role in _QUERY_AND_MIDDLE]
    names = {f"{site.name}.bias" for site in sites}
    every = biases(backbone)
    return {name: p for name, p in every.items() if name in names or name.endswith("q_bias")}


class BitFit(PEFTMethod):
    """y = W x + b with only b trained: the biases of all layers and norms, and the heads; weights
    of norms stay frozen.

    Biases have no weight decay. A network without biases is refused. Running statistics of batch
    normalisation do not change. Learning rates: AdamW 1e-4 to 1e-3 on text (full fine-tuning:
    1e-5), 1e-3 to 1e-2 on images.

    which: biases trained: `all` or `query_and_middle`, the paper's smaller set. These are the
        biases of queries and of the first feed-forward layer, about half as many; refused where
        queries have no bias of their own.
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "biases_only"))

    def __init__(self, which: Literal["all", "query_and_middle"] = "all", load: str | None = None):
        self.which = which
        self.load = load

    def attach(self, network: Network) -> None:
        backbone = network.backbone
        chosen = biases(backbone) if self.which == "all" else query_and_middle(backbone)
        chosen = {name: p for name, p in chosen.items() if name not in network.unused}
        if not chosen:
            raise UserError(
                f"methods.{self.key}: {type(backbone).__name__} has no biases to train; use "
                "peft=lora"
            )
        of_queries = [name for name in chosen if re.search(r"(^|[._])q", name)]
        if self.which == "query_and_middle" and not of_queries:
            raise UserError(
                f"methods.{self.key}.which=query_and_middle: the queries of "
                f"{type(backbone).__name__} have no bias of their own; use which=all"
            )
        for parameter in chosen.values():
            parameter.requires_grad_(True)
