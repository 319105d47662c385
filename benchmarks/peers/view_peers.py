"""Who else makes views: Pillow, picture by picture, in a Dataset behind a DataLoader, as USB and
TorchSSL do it.

Two forms of RandAugment are known elsewhere: the one of TorchSSL (three operations, always applied,
then Cutout; USB took it over unchanged) is our variant `usb`, torchvision's (two operations of one
magnitude) our variant `nm`.
"""

import importlib.util
import math
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from datamodules.views.image.operations import ENHANCE

Picture = Image.Image
Operate = Callable[[Picture, str, float], Picture]
NAMES = {"autocontrast": "AutoContrast"}
for movement in ("shear", "translate"):
    NAMES |= {f"{movement}_{axis}": f"{movement.capitalize()}{axis.upper()}" for axis in "xy"}
# in TorchSSL's repository, and in the package semilearn
PUBLISHED = "datasets/augmentation/randaugment.py"


def published_name(name: str) -> str:
    """An operation as RandAugment's published codes call it."""
    return NAMES.get(name, name.capitalize())


def load_torchssl(path: Path) -> ModuleType:
    """`randaugment.py` of TorchSSL, or of its successor USB: the file, or a folder that holds the
    repository."""
    file = path if path.is_file() else path / PUBLISHED
    spec = importlib.util.spec_from_file_location("published_randaugment", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"{file}: expected TorchSSL's {PUBLISHED}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def semilearn_folder() -> Path | None:
    """The folder of the package semilearn, which is not imported; stand-ins for it do not count."""
    spec = PathFinder.find_spec("semilearn")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def torchssl_operation(module: ModuleType) -> Operate:
    """One operation of TorchSSL's with a value in our units."""
    return lambda picture, name, value: getattr(module, published_name(name))(picture, value)


def torchvision_operation(picture: Picture, name: str, value: float) -> Picture:
    """One operation of torchvision's with a value in our units. A translation is in whole pixels
    there, and positive for a picture that moves on, not for a place that is read further on."""
    magnitude = value - 1 if name in ENHANCE else value
    if name.startswith("translate"):
        magnitude = -value * picture.size[name == "translate_y"]
    if name in ("autocontrast", "equalize", "identity"):
        magnitude = 0.0
    return _apply_op(picture, published_name(name), magnitude, InterpolationMode.NEAREST, None)


def torchvision_values(name: str, values: list[float], side: int) -> list[float]:
    """Those that torchvision can be asked for: translations by whole pixels."""
    if name.startswith("translate"):
        return [math.trunc(value * side) / side for value in values]
    return values


def to_pil(pixels: Tensor) -> Picture:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def from_pil(picture: Picture) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """A weak and a strong view of every picture, as USB's data sets yield them. pixels: uint8 [N,
    H, W, 3].

    Flip and shift, then RandAugment, are torchvision's transforms as in USB, without the
    normalisation, which is part of the network here.
    """

    def __init__(self, pixels: np.ndarray, randaugment: Any):
        side = pixels.shape[1]
        shift = transforms.RandomCrop(side, padding=side // 8, padding_mode="reflect")
        first = [shift, transforms.RandomHorizontalFlip()]
        self.pixels = pixels
        self.weak = transforms.Compose([*first, transforms.ToTensor()])
        self.strong = transforms.Compose([*first, randaugment, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        picture = Image.fromarray(self.pixels[row])
        return self.weak(picture), self.strong(picture)


def loader(pairs: Pairs, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of pairs; the workers stay, so that their start is not in the window."""
    settings: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(pairs, batch, sampler=SequentialSampler(pairs), **settings)


def passes(source: DataLoader[tuple[Tensor, Tensor]], device: str) -> Callable[[], None]:
    """A call that runs through the loader once, every batch on the device."""

    def once() -> None:
        for views in source:
            for view in views:
                view.to(device)

    return once
