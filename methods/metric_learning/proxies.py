"""Learnt vectors in place of the samples of a class."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_rows

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

    @torch.no_grad()
    def move_to(self, x: Tensor, labels: Tensor, source: torch.Generator) -> None:
        """Give the proxy of each class the direction of one of its embeddings x [N, d], drawn
        uniformly, and keep its length, on which the rate depends. labels: [N], -1 for none; a class
        without samples keeps its proxy."""
        classes, rows = sample_of_each_class(labels, source)
        vectors = self.vectors
        classes = classes.to(vectors.device)
        directions = unit_rows(x[rows], dim=1).to(vectors)
        vectors[classes] = directions * vectors[classes].norm(dim=1, keepdim=True)


def proxies_of_tasks(context: Context, make: Callable[[int], Proxies]) -> nn.ModuleDict:
    """Proxies of each task, made from its number of classes."""
    proxies = nn.ModuleDict()
    for name, task in context.tasks.items():
        proxies[name] = make(task.outputs)
    return proxies


def sample_of_each_class(labels: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which classes have samples, and a row of each, drawn uniformly; int64 both. labels: [N] on
    the host, -1 for none."""
    rows = torch.randperm(len(labels), generator=source)
    rows = rows[labels[rows] >= 0]
    # a stable sort keeps the shuffled order within a class, of which the first is taken
    rows = rows[labels[rows].argsort(stable=True)]
    there, counts = labels[rows].unique_consecutive(return_counts=True)
    return there, rows[counts.cumsum(0) - counts]
