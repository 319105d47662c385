"""The worked Gram matrices of the specification's example, and gradients of a small run to hold
weights against."""

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.engine.recipe import Recipe

J = torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
G = J @ J.T
TASKS = {"shape": 3, "colour": 4, "size": 2}


def random_gram(seed: int, tasks: int, dimensions: int = 6) -> Tensor:
    j = torch.randn(
        tasks, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return j @ j.T


def check_permutation(solve: Callable[[Tensor], Tensor], tolerance: float = 1e-9) -> None:
    """Renaming the tasks renames the weights."""
    for seed in range(10):
        gram, order = (
            random_gram(seed, 4),
            torch.randperm(4, generator=torch.Generator().manual_seed(seed)),
        )
        torch.testing.assert_close(
            solve(gram[order][:, order]), solve(gram)[order], atol=tolerance, rtol=0
        )


class Watch:
    """Stands for the backward of a step: gradients of single tasks, then those that the step ends
    with."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Tensor]] = {}
        self.update: dict[str, Tensor] = {}

    def watch(self, recipe: Recipe) -> None:
        combine = recipe.combine

        def watched(step):  # type: ignore[no-untyped-def]
            names, parameters = zip(*recipe.network.named_parameters(), strict=True)
            for term in step.terms.values():
                found = torch.autograd.grad(
                    term.reduced(), parameters, retain_graph=True, allow_unused=True
                )
                self.tasks[term.task] = dict(zip(names, found, strict=True))
            loss = combine(step)
            found = torch.autograd.grad(loss, parameters, retain_graph=True)
            self.update = dict(zip(names, found, strict=True))
            return loss

        recipe.combine = watched  # type: ignore[method-assign]
