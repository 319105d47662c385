"""Learnt vectors in place of the samples of a class."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from recipes.contract import Context

Start = Literal["kaiming", "normal"]


class Proxies(nn.Module):
    """A learned vector for each class, [C, d], without weight decay.

    rate: factor of the optimizer's learning rate.
    start: `kaiming`, normal with fan out (authors of Proxy-Anchor), or `normal`, N(0, 1) / 8
        (authors of Proxy-NCA).
    """

    def __init__(self, classes: int, dim: int, rate: float, start: Start = "kaiming"):
        super().__init__()
        vectors = torch.empty(classes, dim)
        if start == "kaiming":
            nn.init.kaiming_normal_(vectors, mode="fan_out")
        else:
            nn.init.normal_(vectors, std=1 / 8)
        self.vectors = nn.Parameter(vectors)
        self.vectors._lr_scale = rate  # type: ignore[attr-defined]
        self.vectors._weight_decay = 0.0  # type: ignore[attr-defined]


def proxies_of_tasks(context: Context, make: Callable[[int], Proxies]) -> nn.ModuleDict:
    """Proxies of each task, made from its number of classes."""
    proxies = nn.ModuleDict()
    for name, task in context.tasks.items():
        proxies[name] = make(task.outputs)
    return proxies
