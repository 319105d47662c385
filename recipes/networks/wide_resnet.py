"""Wide ResNets as in FixMatch and related methods: `wrn_28_2` for CIFAR-10 and SVHN, `wrn_28_8` for
CIFAR-100, and `wrn_37_2`, with a fourth group, for STL-10 of 96×96.

Zagoruyko and Komodakis 2016 (arXiv:1605.07146), in the form of Oliver et al. 2018
(arXiv:1804.09170): LeakyReLU 0.1, BatchNorm with a slow average, and in the very first block the
activation before the shortcut branches off.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from recipes.networks.pooled import CIFAR_CFG, Blocks, Own, PooledNet, init_fan_out

SLOPE = 0.1


class PreactivationBlock(nn.Module):
    """x + conv(act(bn(conv(act(bn(x)))))); with `activate_before_residual` the sum starts from
    act(bn(x)).

    The shortcut is a 1×1 convolution where the width changes, applied to what the sum starts from.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        activate_before_residual: bool,
        bn_momentum: float,
        bn_eps: float,
    ):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, momentum=bn_momentum, eps=bn_eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=bn_momentum, eps=bn_eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activate_before_residual = activate_before_residual

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.bn1(x), SLOPE)
        residual = self.conv2(F.leaky_relu(self.bn2(self.conv1(active)), SLOPE))
        start = active if self.activate_before_residual else x
        return self.shortcut(start) + residual


def group_of(
    blocks: int, inputs: int, outputs: int, first_group: bool, bn_momentum: float, bn_eps: float
) -> list[nn.Module]:
    """The blocks of one group; its first block changes the width and, except in the first group,
    the resolution."""
    stride = 1 if first_group else 2
    layers: list[nn.Module] = [
        PreactivationBlock(inputs, outputs, stride, first_group, bn_momentum, bn_eps)
    ]
    for _ in range(blocks - 1):
        layers.append(PreactivationBlock(outputs, outputs, 1, False, bn_momentum, bn_eps))
    return layers


class WideResNet(PooledNet):
    """conv(16), `groups` groups of `blocks` blocks of 16k, 32k, 64k … channels, the first block of
    each group after the first with stride 2; act(bn(·)) and global average pooling. The depth in
    the name is 1 + groups + 2 · groups · blocks (Oliver et al. count the shortcuts' convolutions,
    not the classifier).

    bn_momentum 0.001 and bn_eps 1e-3, in PyTorch's convention, are FixMatch's, for a million steps.
    A run of fewer than 20,000 raises the momentum, unless `network.options.bn_momentum` is set: see
    `fit_statistics_to_run`. Weights: `init_fan_out`. Differences from the TensorFlow
    original: convolutions have no bias (BatchNorm follows or absorbs it), and stride 2 pads both
    sides equally.
    """

    def __init__(
        self,
        groups: int = 3,
        blocks: int = 4,
        width: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.001,
        bn_eps: float = 1e-3,
    ):
        super().__init__(drop_rate)
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        inputs = 16
        for group in range(groups):
            outputs = 16 * width * 2**group
            layers += group_of(blocks, inputs, outputs, group == 0, bn_momentum, bn_eps)
            inputs = outputs
        self.blocks = Blocks(*layers)
        self.feature_info = []
        for group in range(groups):
            last = (group + 1) * blocks - 1
            self.feature_info.append(
                {
                    "num_chs": 16 * width * 2**group,
                    "reduction": 2**group,
                    "module": f"blocks.{last}",
                }
            )
        self.bn = nn.BatchNorm2d(inputs, momentum=bn_momentum, eps=bn_eps)
        self.num_features = inputs
        self.reset_classifier(num_classes, global_pool)
        init_fan_out(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.blocks(self.conv1(x))), SLOPE)


_CFG = {**CIFAR_CFG, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "first_conv": "conv1"}
OWN = {
    "wrn_28_2": Own(WideResNet, _CFG),
    "wrn_28_8": Own(WideResNet, {**_CFG, "num_classes": 100}, {"width": 8}),
    "wrn_37_2": Own(
        WideResNet, {**_CFG, "input_size": (3, 96, 96), "pool_size": (12, 12)}, {"groups": 4}
    ),
}
