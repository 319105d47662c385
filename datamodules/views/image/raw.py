"""The unchanged image, used for evaluation."""

from collections.abc import Callable

from torch import Tensor

from foundation.randomness import Draw

DrawFor = Callable[[str], Draw]


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> float32 in [0, 1], exactly k/255."""
    return pixels.float().div_(255.0)


class Raw:
    """Deterministic: pixels / 255."""

    def __call__(self, pixels: Tensor, draw_for: DrawFor | None = None) -> Tensor:
        return to_unit(pixels)
