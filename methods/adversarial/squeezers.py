"""Squeezers of pictures: each maps many pictures to one, so that what an attack adds is lost."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foundation.errors import UserError
from methods.adversarial.smoothing import median

Squeezer = Callable[[Tensor], Tensor]
NLM = re.compile(r"([1-9]\d*)-([1-9]\d*)-([1-9]\d*)")


def bit_depth(x: Tensor, bits: int) -> Tensor:
    """round(x (2^b - 1)) / (2^b - 1), half to even."""
    levels = 2**bits - 1
    return torch.round(x * levels) / levels


def non_local_means(x: Tensor, window: int, patch: int, strength: int) -> Tensor:
    """Each pixel is a mean of those in a window around it, weighted by how similar the patches
    around both are: OpenCV's, on pixels of 8 bits. Pictures [N, C, H, W] with one or three
    channels."""
    import cv2

    pixels = (x.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    made = []
    for picture in np.ascontiguousarray(pixels):
        if picture.shape[2] == 1:
            made.append(cv2.fastNlMeansDenoising(picture, None, strength, patch, window)[..., None])
        else:
            made.append(
                cv2.fastNlMeansDenoisingColored(picture, None, strength, strength, patch, window)
            )
    found = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
    return found.to(x.device, x.dtype) / 255


def passing_gradients(squeezer: Squeezer) -> Squeezer:
    """The squeezer forward, the identity backward (Athalye et al. 2018): attacks go through it."""

    def squeezed(x: Tensor) -> Tensor:
        # x - sg(x) is zero, and its gradient one
        return squeezer(x.detach()) + (x - x.detach())

    return squeezed


def squeezers(bits: int | None, window: int | None, nlm: str | None) -> Iterator[Squeezer]:
    """Those that are chosen, all with a gradient."""
    if bits is not None:
        yield passing_gradients(partial(bit_depth, bits=bits))
    if window is not None:
        yield passing_gradients(partial(median, size=window))
    if nlm is not None:
        search, patch, strength = numbers(nlm)
        chosen = partial(non_local_means, window=search, patch=patch, strength=strength)
        yield passing_gradients(chosen)


def numbers(nlm: str) -> tuple[int, int, int]:
    """Search window, patch and strength of `13-3-2`."""
    found = NLM.fullmatch(nlm)
    assert found is not None, "its form was checked before"
    search, patch, strength = map(int, found.groups())
    return search, patch, strength


def check_nlm(key: str, nlm: str | None, channels: int | None) -> None:
    """UserError where OpenCV is missing, or does not know such pictures."""
    if nlm is None:
        return
    search, patch, _ = numbers(nlm)
    if not search % 2 or not patch % 2:
        problem = f"got {nlm}, a window or patch of even size"
        raise UserError(key, problem, "expected odd ones, e.g. 13-3-2")
    if channels not in (None, 1, 3):
        raise UserError(key, f"works on 1 or 3 channels, and pictures have {channels}", "use null")
    if importlib.util.find_spec("cv2") is None:
        problem = "non-local means are OpenCV's, which is not installed"
        raise UserError(key, problem, "pip install 'roux[squeezing]', or use null")
