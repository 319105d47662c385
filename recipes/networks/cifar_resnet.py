"""The residual networks for CIFAR of He et al. 2016 (arXiv:1512.03385, section 4.2):
`resnet20_cifar`, `resnet32_cifar`, `resnet56_cifar` with 0.27, 0.46 and 0.85 M parameters. Layers
have the names of the published weights, with `fc` for the classifier."""

from torch import Tensor, nn
from torch.nn import functional as F

from recipes.networks.pooled import CIFAR_CFG, Blocks, Own, PooledNet


def subsample_and_pad(x: Tensor, channels: int, stride: int) -> Tensor:
    """Shortcut of option A, without parameters: every `stride`-th pixel, and as many zero channels
    before as after.

    x: [N, C, H, W] -> [N, channels, ⌈H / stride⌉, ⌈W / stride⌉]; channels - C must be even.
    """
    extra = (channels - x.shape[1]) // 2
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, extra, extra))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int, bn_momentum: float):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=bn_momentum)
        self.change = (outputs, stride) if inputs != outputs or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.change is not None:
            x = subsample_and_pad(x, *self.change)
        return F.relu(residual + x)


def group_of(blocks: int, inputs: int, outputs: int, stride: int, bn_momentum: float) -> Blocks:
    """`blocks` blocks; the first one changes width and resolution."""
    first = BasicBlock(inputs, outputs, stride, bn_momentum)
    rest = [BasicBlock(outputs, outputs, 1, bn_momentum) for _ in range(blocks - 1)]
    return Blocks(first, *rest)


class CifarResNet(PooledNet):
    """conv(16), three groups of `blocks` blocks with 16, 32, 64 channels: 6 · blocks + 2 layers.

    Convolutions and classifier: He normal by inputs, std √(2 / fan_in).
    """

    def __init__(
        self,
        blocks: int = 3,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.1,
    ):
        super().__init__(drop_rate)
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16, momentum=bn_momentum)
        self.layer1 = group_of(blocks, 16, 16, 1, bn_momentum)
        self.layer2 = group_of(blocks, 16, 32, 2, bn_momentum)
        self.layer3 = group_of(blocks, 32, 64, 2, bn_momentum)
        self.feature_info = [
            {"num_chs": 16 * 2**g, "reduction": 2**g, "module": f"layer{g + 1}"} for g in range(3)
        ]
        self.num_features = 64
        self.reset_classifier(num_classes, global_pool)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


# mean and std of ImageNet
_CFG = {
    **CIFAR_CFG,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "conv1",
}
OWN = {f"resnet{6 * n + 2}_cifar": Own(CifarResNet, _CFG, {"blocks": n}) for n in (3, 5, 9)}
