"""A view of natural pictures: a crop, a policy, colours and erasing, one after the other."""

import torch
from torch import Tensor

from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.resized_crop import ResizedCrop
from datamodules.views.image.stage import Drawn, Stage, blocks
from foundation.errors import UserError


class Natural:
    """A crop, then the stages that are given.

    crop: what makes the square: `ResizedCrop`, or `Weak` for pictures that have the size already;
        null: a resized crop of 224 pixels.
    policy: operations on 8 bits: `TrivialAugment`, `AutoAugment` or `RandAugment`; null: none.
    color: on floating pictures: `ColorJitter` or `ThreeAugment`; null: none.
    erase: `Erasing`; null: none.
    """

    def __init__(
        self,
        crop: Stage | None = None,
        policy: Stage | None = None,
        color: Stage | None = None,
        erase: Stage | None = None,
    ):
        self.crop: Stage = crop or ResizedCrop()
        self.policy = policy
        self.floating = [stage for stage in (color, erase) if stage is not None]
        self.size = self.crop.size
        named = {"crop": self.crop, "policy": policy, "color": color, "erase": erase}
        for name, stage in named.items():
            if stage is not None and not (hasattr(stage, "draw") and hasattr(stage, "apply")):
                problem = f"{type(stage).__name__} has no draw and apply"
                raise UserError(f"{name} of a natural view", problem, "expected a stage")

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        channels, height, width = pixels.shape[1:]
        cut = self.crop.draw(draw_for, (channels, height, width), pixels.device)
        if self.crop.size is not None:
            height = width = self.crop.size
        shape = (channels, height, width)
        # everything is drawn for the whole batch, so that blocks do not show in the result
        policy: Drawn = ()
        if self.policy is not None:
            policy = self.policy.draw(draw_for, shape, pixels.device)
        drawn = [stage.draw(draw_for, shape, pixels.device) for stage in self.floating]
        views = torch.empty(len(pixels), *shape, device=pixels.device)
        for rows in blocks(pixels):
            squares = self.crop.apply(pixels[rows], *rows_of(cut, rows))
            if self.policy is not None:
                squares = self.policy.apply(squares, *rows_of(policy, rows))
            block = to_unit(squares)
            for stage, numbers in zip(self.floating, drawn, strict=True):
                block = stage.apply(block, *rows_of(numbers, rows))
            views[rows] = block
        return views


def rows_of(drawn: Drawn, rows: slice) -> Drawn:
    return tuple(values[rows] for values in drawn)
