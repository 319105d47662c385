"""Classifier re-training, the second stage of cRT. Kang et al., Decoupling Representation and
Classifier for Long-Tailed Recognition, ICLR 2020, arXiv 1910.09217."""

from typing import Literal

import torch
from torch import nn

from foundation.errors import UserError
from foundation.randomness import derive_seed
from recipes.contract import Context, Declaration, Method


class ClassifierRetraining(Method):
    """min over W of CE(W f(x), y), f fixed: the loaded backbone is frozen, and reinitialized heads
    are trained.

    The stage after representation learning (recipe=crt), with a class-balancing sampler. Heads must
    be linear.

    bn: BatchNorm of the backbone: `freeze` (ours) or `drift`: moments follow the sampler (authors'
        code). `freeze` runs the backbone in evaluation mode, so that features depend on the image
        alone; `drift` leaves it in training mode.
    reinitialize: draw new weights for the heads from the run's seed (paper); false: train the
        loaded ones.
    """

    declaration = Declaration(
        tags=("freezes_backbone",),
        refuses={
            "delta": (
                "it freezes all but the heads, so attached modules would not be trained; add them "
                "in the first stage"
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
        network.requires_grad_(False)
        network.heads.requires_grad_(True)
        if self.bn == "freeze":
            # the dropout before the heads is trained with them
            trained = [network, getattr(network, "dropout", None), *network.heads.modules()]
            for module in network.modules():
                if not any(module is entry for entry in trained):
                    module.training = False
        if self.reinitialize:
            for task, head in network.heads.items():
                self.reset(task, head, context)

    def reset(self, task: str, head: nn.Module, context: Context) -> None:
        """The weights of a new network: Glorot normal, bias zero."""
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"methods.{self.key}: the head of task '{task}' is not linear; set "
                "reinitialize=false"
            )
        source = torch.Generator().manual_seed(derive_seed(context.seed, self.key, task))
        with torch.no_grad():
            # drawn on the CPU: equal on every device
            weight = nn.init.xavier_normal_(torch.empty(head.weight.shape), generator=source)
            head.weight.copy_(weight)
            if head.bias is not None:
                head.bias.zero_()
