"""Mix-and-match adapter. He et al., Towards a Unified View of Parameter-Efficient Transfer
Learning, ICLR 2022, arXiv 2110.04366."""

from typing import Any

from torch import nn

from foundation.types import Count, Scale, ShareBelowOne, Steps
from methods.peft.adapter import Adapter
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.surgeon import PEFTMethod
from recipes.contract import Context, Declaration
from recipes.networks.network import Network


class MAMAdapter(PEFTMethod):
    """Attn(q, [P_k; K], [P_v; V]) in every attention, and F(x) + s · U relu(D x) beside every
    feed-forward part F.

    A short prefix is the cheapest way to change attention, a scaled adapter beside the feed-forward
    part the best place for the other parameters (paper). The parts are those of `prefix_tuning` and
    of `adapter` with variant=parallel. The prefix changes the output before training. The prefix
    has no weight decay. Learning rates: AdamW 5e-5 to 1e-4, by the authors' scripts with decay 0.1.

    length: rows P of the prefix, at least 1; 30 (paper; authors' scripts for GLUE: 16).
    hidden: width of the MLP that makes the rows, at least 0; 512 (paper); 0: none.
    bottleneck: width m of the adapters, at least 1; 512 (paper; for GLUE: 16).
    scale: s, above 0; 4 (paper; for GLUE: 2).
    dropout: dropout behind relu, in [0, 1); 0 (authors' scripts: that of the network, 0.1).
    load: delta saved by another run, to start from; null: none.
    """

    declaration = Declaration(tags=("delta", "adapters"))
    preserves: bool = False

    def __init__(
        self,
        length: Count = 30,
        hidden: Steps = 512,
        bottleneck: Count = 512,
        scale: Scale = 4.0,
        dropout: ShareBelowOne = 0.0,
        load: str | None = None,
    ):
        self.length = length
        self.hidden = hidden
        self.bottleneck = bottleneck
        self.scale = scale
        self.dropout = dropout
        self.load = load

    def attach(self, network: Network) -> None:
        prefix = PrefixTuning(self.length, self.hidden)
        adapter = Adapter("parallel", self.bottleneck, self.scale, dropout=self.dropout)
        prefix.key = self.key
        adapter.key = self.key
        parts = {"prefix": prefix.added(network), "adapters": adapter.added(network)}
        network.deltas[self.key] = nn.ModuleDict(parts)

    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        parts = context.network.deltas[self.key]
        assert isinstance(parts, nn.ModuleDict)
        return [{"params": list(parts["prefix"].parameters()), "weight_decay": 0.0}]
