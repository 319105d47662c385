"""`digits_cnn`: four convolutions for gray images of 8×8 to 28×28, for short runs on a CPU."""

from functools import partial

import torch
from torch import Tensor, nn

from recipes.networks.pooled import CIFAR_CFG, Blocks, Own, PooledNet, init_fan_out


class DigitsNet(PooledNet):
    """Four times 3×3 convolution, BatchNorm, LeakyReLU 0.1, with w, w, 2w, 2w channels; the second
    and the fourth have stride 2, so most of the work is on a quarter and a sixteenth of the pixels.
    Global average pooling.

    width: w.
    bn_momentum: 0.1, since its runs have hundreds of steps, not thousands.

    Weights: `init_fan_out`. Activations are channels-last, which saves a sixth of the time on a
    CPU; weights are not, since safetensors does not save them so.
    """

    def __init__(
        self,
        width: int = 32,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = 0.1,
    ):
        super().__init__(drop_rate)
        layers: list[nn.Module] = []
        inputs = in_chans
        for outputs, stride in ((width, 1), (width, 2), (2 * width, 1), (2 * width, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs, momentum=bn_momentum),
                nn.LeakyReLU(0.1, inplace=True),
            ]
            inputs = outputs
        self.layers = Blocks(*layers)
        self.feature_info = []
        for i in range(4):
            channels = width * (1 + i // 2)
            reduction = 2 ** ((i + 1) // 2)
            self.feature_info.append(
                {"num_chs": channels, "reduction": reduction, "module": f"layers.{3 * i + 2}"}
            )
        self.num_features = inputs
        self.reset_classifier(num_classes, global_pool)
        init_fan_out(self)

    def forward_features(self, x: Tensor) -> Tensor:
        layers = list(self.layers)  # a Sequential is searched for every index
        for at in range(0, len(layers), 3):
            x = self.layers.run(partial(self.block, layers[at : at + 3], at == 0), x)
        return x

    @staticmethod
    def block(layers: list[nn.Module], first: bool, x: Tensor) -> Tensor:
        """A convolution and what follows it."""
        convolution, norm, activation = layers
        x = convolution(x)
        if first:
            # with one channel the input has no memory format, so it is set after the first layer
            x = x.contiguous(memory_format=torch.channels_last)
        return activation(norm(x))  # type: ignore[no-any-return]


OWN = {
    "digits_cnn": Own(
        DigitsNet,
        {
            **CIFAR_CFG,
            "input_size": (1, 8, 8),
            "pool_size": (2, 2),
            "mean": (0.5,),
            "std": (0.5,),
            "first_conv": "layers.0",
        },
    )
}
