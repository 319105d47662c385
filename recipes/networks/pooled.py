"""Base of our own convolutional networks: global average pooling, a linear classifier, timm's
conventions. timm itself, which takes a second to import, is not needed to build one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CIFAR_CFG = {
    "url": "",
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "classifier": "fc",
}


class Blocks(nn.Sequential):
    """Blocks, one after the other. recomputes: only what enters each is kept, the backward computes
    the rest again."""

    recomputes = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = self.run(block, x)
        return x

    def run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not (self.recomputes and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(block, x, use_reentrant=False)  # type: ignore[no-any-return]


class PooledNet(nn.Module):
    """forward_features [N, C, H, W] -> [N, num_features, h, w]; forward_head pools and classifies.

    A subclass builds its layers, sets `num_features`, calls `reset_classifier` and then initializes
    the weights. What it computes again in the backward is in `Blocks`.
    """

    num_features: int
    num_classes: int
    fc: nn.Module
    pretrained_cfg: dict[str, Any]

    def __init__(self, drop_rate: float = 0.0):
        super().__init__()
        self.drop_rate = drop_rate

    @property
    def head_hidden_size(self) -> int:
        return self.num_features

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """num_classes = 0 removes the classifier, global_pool = '' the pooling."""
        self.num_classes = num_classes
        self.global_pool, factor = pooling(global_pool)
        self.fc = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features * factor, num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for module in self.modules():
            if isinstance(module, Blocks):
                module.recomputes = enable

    def forward_features(self, x: Tensor) -> Tensor:
        raise AttributeError(f"{type(self).__name__} does not implement forward_features")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@dataclass(frozen=True)
class Own:
    """One of our networks: its class, its arguments, and timm's record of the model."""

    network: type[PooledNet]
    record: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def create(self, name: str, **arguments: Any) -> PooledNet:
        """The network with random weights. As in timm, an argument that is None keeps its
        default."""
        given = {key: value for key, value in arguments.items() if value is not None}
        network = self.network(**{**self.arguments, **given})
        network.pretrained_cfg = {**self.record, "architecture": name}
        return network


def pooling(kind: str) -> tuple[nn.Module, int]:
    """The module [N, C, h, w] -> [N, factor · C], and that factor. kind: `avg` or another of
    timm's; '' keeps the maps."""
    if not kind:
        return nn.Identity(), 1
    if kind == "avg":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)), 1
    from timm.layers import SelectAdaptivePool2d

    pool = SelectAdaptivePool2d(pool_type=kind, flatten=True)
    return pool, pool.feat_mult()


def init_fan_out(module: nn.Module) -> None:
    """He initialization (arXiv:1502.01852) by the number of outputs: weights of convolutions normal
    with std √(2 / (k² · out)), of linear layers Glorot normal, biases zero, BatchNorm 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            k = layer.kernel_size[0] * layer.kernel_size[1]
            nn.init.normal_(layer.weight, std=(2 / (k * layer.out_channels)) ** 0.5)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
        bias = getattr(layer, "bias", None)
        if isinstance(bias, torch.Tensor):
            nn.init.zeros_(bias)
