"""The embedding head: a point in a metric space for each sample, beside the heads of the tasks."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.networks.network import Network
from recipes.networks.requests import EmbeddingRequest

EMBEDDING = "embedding"


class EmbeddingHead(nn.Module):
    """[N, features] -> [N, dim] in float32: Wh + b, then x / max(‖x‖, 1e-12) where `normalize`;
    without it no b, which distances do not see and no loss on them would ever teach."""

    def __init__(self, features: int, dim: int, normalize: bool):
        super().__init__()
        self.project = nn.Linear(features, dim, bias=normalize)
        self.normalize = normalize

    def forward(self, hidden: Tensor) -> Tensor:
        # half precision would place cosines in steps of .004
        x = self.project(hidden).float()
        return F.normalize(x, dim=1) if self.normalize else x


def add_embedding(network: Network, request: EmbeddingRequest) -> None:
    """Give the network the head `embedding`. Raises UserError where a task has that name."""
    if EMBEDDING in network.heads:
        raise UserError(
            f"task '{EMBEDDING}': is the name of the embedding head; call the task otherwise"
        )
    network.heads[EMBEDDING] = EmbeddingHead(network.feature_dim, request.dim, request.normalize)
