"""The worked example of the family: six unit vectors in the plane, and their losses as plain loops gave them."""

import importlib
from typing import Any

import pytest
import torch

from methods.metric_learning.metric import PairLoss


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], 1)


X, Y = on_circle(0, 20, 70, 50, 110, 160), torch.tensor([0, 0, 0, 1, 1, 2])
PROXIES = on_circle(10, 90, 180)


def batch(seed: int, rows: int = 24, classes: int = 5, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random unnormalised embeddings in float64, every class there at least twice."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes).repeat(2), torch.randint(classes, (rows,), generator=source)])[:rows]
    return torch.randn(rows, dim, generator=source, dtype=torch.float64), labels


def oracle(module: str, name: str, **arguments: Any) -> Any:
    """An object of pytorch-metric-learning; the test is skipped where that is not installed."""
    pytest.importorskip("pytorch_metric_learning", reason="the oracle, pytorch-metric-learning, is not installed")
    return getattr(importlib.import_module(f"pytorch_metric_learning.{module}"), name)(**arguments)


def value_and_gradient(loss: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x)
    value.backward()
    return value.detach(), x.grad


def of(method: PairLoss, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, without an engine around it."""
    return method.loss(x, labels, "label", None)[0]  # type: ignore[arg-type]


def same(ours: Any, theirs: Any, x: torch.Tensor) -> None:
    """Equal values and gradients in float64."""
    for mine, yours in zip(value_and_gradient(ours, x), value_and_gradient(theirs, x), strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-9, rtol=1e-9)
