"""Loaders of data sets, to be named in a config as `data.source`."""

from datamodules.sources.cifar import CIFAR10, CIFAR100
from datamodules.sources.digits import Digits
from datamodules.sources.idx import MNIST, FashionMNIST
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.image_table import ImageTable
from datamodules.sources.multi_digits import MultiDigits
from datamodules.sources.omniglot import Omniglot
from datamodules.sources.own_images import OwnImages

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "ImageTable",
    "MultiDigits",
    "Omniglot",
    "OwnImages",
]
