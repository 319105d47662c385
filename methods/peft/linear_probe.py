"""Linear probing: a classifier on frozen features, the baseline of every comparison. The
normalisation before it as in He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR
2022, arXiv 2111.06377."""

import torch
from torch import Tensor, nn

from methods.peft.surgeon import PEFTMethod
from recipes.contract import Declaration
from recipes.networks.network import Network


class Standardise(nn.Module):
    """(f - μ) / σ of every feature, over the batch while training and by running statistics
    afterwards."""

    def __init__(self, features: int, device: torch.device):
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False, eps=1e-6, device=device)

    def hook(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.norm(args[0]), *args[1:])


class LinearProbe(PEFTMethod):
    """z = W f(x) + b on frozen features f: trains the heads only. The whole backbone is in
    evaluation mode, without dropout, and builds no graph.

    norm: standardise each feature before the heads, (f - μ)/σ; false. By the batch's moments, in
        evaluation by running ones, without scale and shift of its own. For features of uneven size;
        makes the heads' rate easier to choose.
    """

    trains_backbone = False

    def __init__(self, norm: bool = False):
        self.norm = norm

    def declare(self) -> Declaration:
        reason = (
            "it trains the heads only, so nothing else may be trained; remove peft=linear_probe"
        )
        return Declaration(
            tags=("freezes_backbone",),
            refuses={"delta": reason},
            ddp_exact=not self.norm,
            ddp_difference="the BatchNorm before the heads uses the statistics of each device",
        )

    def attach(self, network: Network) -> None:
        network.keep_eval_only([network.backbone])
        if self.norm:
            standardise = Standardise(network.feature_dim, next(network.heads.parameters()).device)
            network.deltas[self.key] = standardise
            network.dropout.register_forward_pre_hook(standardise.hook)
