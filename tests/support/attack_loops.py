"""Plain loops to hold the training methods against: the views of the small runs, and an SGD
step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foundation.randomness import Randomness
from recipes.step import Embedded, Stream
from tests.support.harness import Setup, noisy_view


def clipped(stream: Stream, view: str, randomness: Randomness) -> Any:
    """The views of the small runs within [0, 1], as true views are: an attack brings pixels there
    anyway."""
    made = noisy_view(stream, view, randomness)
    return made if isinstance(made, dict) else made.clamp(0, 1)


def weak_batches(setup: Setup) -> Iterator[tuple[int, dict, dict[str, Tensor], Randomness]]:
    """(position, view, targets, randomness) of every step."""
    for position, batch in enumerate(setup.batches({"labeled"})):
        randomness = Randomness(setup.seed, position)
        view = noisy_view(Stream("labeled", **batch["labeled"]), "weak", randomness)
        yield position, view, batch["labeled"]["targets"], randomness


def logits(network: nn.Module, embedded: Embedded) -> Tensor:
    return network(embedded).logits["label"]


def descend(network: nn.Module, gradients: list[Tensor], lr: float) -> None:
    with torch.no_grad():
        for weight, gradient in zip(network.parameters(), gradients, strict=True):
            weight -= lr * gradient


def assert_same(result, network: nn.Module, tolerance: float = 2e-6) -> None:
    for name, value in network.named_parameters():
        torch.testing.assert_close(
            result.parameters[name], value.detach(), atol=tolerance, rtol=0, msg=name
        )
