"""Networks: embed -> features -> heads, around any timm model, any Hugging Face encoder, or one of
our own."""

from recipes.networks.build import build_network, default_name
from recipes.networks.checkpoint import load_checkpoint
from recipes.networks.image import ImageNetwork
from recipes.networks.network import Network, linear_head, parameter_counts

__all__ = [
    "ImageNetwork",
    "Network",
    "build_network",
    "default_name",
    "linear_head",
    "load_checkpoint",
    "parameter_counts",
]
