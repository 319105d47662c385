"""Classifier re-training, the second stage of cRT. Kang et al., Decoupling Representation and
Classifier for Long-Tailed Recognition, ICLR 2020, arXiv 1910.09217."""

from typing import Literal

import torch
from torch import nn

from foundation.errors import UserError
from foundation.randomness import derive_seed
from recipes.contract import Context, Declaration, Method


class ClassifierRetraining(Method):
    """min over W of CE(W f(x), y), f fixed: the backbone stays as it was loaded, fresh heads learn.

    A stage after one that trained the representation (recipe=crt), with a sampler that balances the
    classes. Heads must be linear.

    bn: BatchNorm of the backbone: `freeze` (ours) or `drift`: moments follow the sampler (authors'
        code). `freeze` runs the backbone in evaluation mode, so that its features depend on the
        picture alone; `drift` leaves it in training mode.
    reinitialize: draw the heads' weights anew, from the run's seed (paper); false: train the loaded
        ones.
    """

    declaration = Declaration(
        tags=("freezes_backbone",),
        refuses={
            "delta": (
                "it freezes all but the heads, so an added part would not learn; add it in the "
                "first stage"
            ),
            "freezes_backbone": "both freeze the backbone; leave one out",
            "metric_loss": (
                "it trains linear classifiers on frozen features, which an embedding is not; "
                "leave one out"
            ),
        },
    )

    def __init__(self, bn: Literal["freeze", "drift"] = "freeze", reinitialize: bool = True):
        self.bn = bn
        self.reinitialize = reinitialize

    def build(self, context: Context) -> None:
        network = context.network
        heads = {id(module) for module in network.heads.modules()}
        network.requires_grad_(False)
        network.heads.requires_grad_(True)
        if self.bn == "freeze":
            for module in network.modules():
                # the network itself stays in training mode: dropout before the heads belongs to
                # them
                if id(module) not in heads and module not in (
                    network,
                    getattr(network, "dropout", None),
                ):
                    module.training = False
        if self.reinitialize:
            for task, head in network.heads.items():
                self.restart(task, head, context)

    def restart(self, task: str, head: nn.Module, context: Context) -> None:
        """Weights as a fresh network has them: Glorot normal, bias zero."""
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"methods.{self.key}: the head of task '{task}' is not linear; set "
                "reinitialize=false"
            )
        source = torch.Generator().manual_seed(derive_seed(context.seed, self.key, task))
        with torch.no_grad():
            head.weight.copy_(
                nn.init.xavier_normal_(torch.empty(head.weight.shape), generator=source)
            )
            if head.bias is not None:
                head.bias.zero_()
