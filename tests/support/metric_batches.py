"""The worked example of the family: six unit vectors in the plane, and their losses as plain loops
gave them."""

from types import SimpleNamespace
from typing import Any

import torch

from methods.metric_learning.metric import PairLoss
from methods.metric_learning.proxy_anchor import proxy_anchor
from methods.metric_learning.xbm import XBM, Memory


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], 1)


X, Y = on_circle(0, 20, 70, 50, 110, 160), torch.tensor([0, 0, 0, 1, 1, 2])
PROXIES = on_circle(10, 90, 180)


def batch(
    seed: int, rows: int = 24, classes: int = 5, dim: int = 6
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random unnormalised embeddings in float64, every class there at least twice."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.cat(
        [torch.arange(classes).repeat(2), torch.randint(classes, (rows,), generator=source)]
    )[:rows]
    return torch.randn(rows, dim, generator=source, dtype=torch.float64), labels


def of(method: PairLoss, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, without an engine around it."""
    return method.loss(x, labels, "label", None)[0]  # type: ignore[arg-type]


def proxy_anchor_loss(x: torch.Tensor, labels: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
    """With the paper's α = 32, δ = 0.1."""
    return proxy_anchor(x, labels, proxies, 32.0, 0.1)


def running(method: XBM, memory: Memory, step: int = 0, total_steps: int = 1000) -> Any:
    """As much of a recipe as a loss with a memory asks for."""
    method.key = "xbm"
    return SimpleNamespace(
        method_modules={"xbm": memory},
        trainer=SimpleNamespace(global_step=step),
        tasks={"label": None},
        total_steps=total_steps,
    )


def filled_memory(rows: int = 20, size: int = 32) -> Memory:
    """The last places are empty."""
    x, labels = batch(8, rows=rows)
    memory = Memory(size, 6, 1).double()
    memory.enqueue(x, labels[None])
    return memory
