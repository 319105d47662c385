"""What methods that run a step's closure twice have in common: the weights they move and put
back."""

import torch
from pytorch_lightning import Callback

from recipes.contract import Method
from tests.support.harness import Setup, build, fit


class _Watch(Callback):
    def __init__(self) -> None:
        self.before: list[list[torch.Tensor]] = []
        self.at_step: list[list[torch.Tensor]] = []

    def on_train_batch_start(self, trainer, recipe, *rest):
        self.before.append([p.detach().clone() for p in recipe.network.parameters()])

    def on_before_optimizer_step(self, trainer, recipe, optimizer):
        self.at_step.append([p.detach().clone() for p in recipe.network.parameters()])


def weights_are_restored(methods: dict[str, Method]) -> bool:
    """Whether the weights at the moment of an optimizer step are those before its batch, bit for
    bit."""
    setup, watch = Setup(steps=3), _Watch()
    fit(build(methods, setup), setup, watch)
    assert len(watch.before) == len(watch.at_step) == setup.steps
    pairs = zip(watch.before, watch.at_step, strict=True)
    return all(
        torch.equal(a, b) for before, at_step in pairs for a, b in zip(before, at_step, strict=True)
    )
