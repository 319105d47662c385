"""Our own networks by name."""

from recipes.networks import cifar_resnet, digits_cnn, wide_resnet
from recipes.networks.pooled import Own

OWN: dict[str, Own] = {**digits_cnn.OWN, **wide_resnet.OWN, **cifar_resnet.OWN}
