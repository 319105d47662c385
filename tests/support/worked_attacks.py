"""The specification's worked example: f(x) = Wx + b, and a small convolutional model for
comparisons."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.adversarial.attacks.losses import Loss, Objective, objective

W = torch.tensor([[1, -2, 0.5, 0], [0, 1, -1, 2], [-1, 0.5, 0, -0.5]])
B = torch.tensor([0.1, 0, -0.1])
X = torch.tensor([[0.2, 0.7, 0.5, 0.9]])
Y = torch.tensor([1])


def linear(x: Tensor) -> dict[str, Tensor]:
    return {"label": x @ W.T + B}


def of(
    model: Callable[[Tensor], Tensor], y: Tensor, loss: Loss = "ce", sign: float = 1.0
) -> Objective:
    """The objective of a model that returns logits alone."""
    return objective(lambda x: {"label": model(x)}, {"label": y}, loss, sign)


def value(x: Tensor, y: int = 1) -> float:
    return float(objective(linear, {"label": torch.tensor([y])})(x))


def convolutional(channels: int = 3, side: int = 8, classes: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        body = [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(8 * side * side, classes)).eval()


def pictures(rows: int = 6, channels: int = 3, side: int = 8) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.rand(rows, channels, side, side, generator=source), torch.randint(
        5, (rows,), generator=source
    )
