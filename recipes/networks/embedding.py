"""The embedding head: a point in a metric space for each sample, in addition to the tasks'
heads."""

import torch.nn.functional as F
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.networks.network import Network
from recipes.networks.requests import EmbeddingRequest

EMBEDDING = "embedding"


class EmbeddingHead(nn.Module):
    """[N, features] -> [N, dim] in float32: Wh + b, then x / max(‖x‖, 1e-12) if `normalize`.
    Without it there is no b: distances do not depend on it, so it would never get a gradient.
    layer_norm: h is normalised over its width first, without parameters."""

    def __init__(self, features: int, dim: int, normalize: bool, layer_norm: bool = False):
        super().__init__()
        self.project = nn.Linear(features, dim, bias=normalize)
        self.normalize = normalize
        self.layer_norm = layer_norm

    def forward(self, hidden: Tensor) -> Tensor:
        if self.layer_norm:
            hidden = F.layer_norm(hidden, hidden.shape[-1:])
        # half precision resolves cosines only to 0.004
        x = self.project(hidden).float()
        return F.normalize(x, dim=1) if self.normalize else x


def add_embedding(network: Network, request: EmbeddingRequest) -> None:
    """Add the head `embedding` to the network. Raises UserError if a task has that name."""
    if EMBEDDING in network.heads:
        raise UserError(f"task '{EMBEDDING}': is the name of the embedding head; rename the task")
    network.heads[EMBEDDING] = EmbeddingHead(
        network.feature_dim, request.dim, request.normalize, request.layer_norm
    )
