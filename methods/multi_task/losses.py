"""The losses of a step by task: what every weighting starts from."""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor

from foundation.distributed import global_sum, world_size
from recipes.step import Step
from recipes.step.terms import Term

NormalizeSum = Literal["none", "one", "tasks"]


@dataclass(frozen=True)
class TaskLosses:
    """losses: [T] scalars of this rank with graph, in the order of the tasks: all terms of a task
    with their weights, a semi-supervised one beside the supervised one. present: [T], False where
    no sample of the global batch has a label of the task. rest: the sum of the terms that belong to
    no task; no weighting touches it.
    """

    losses: list[Tensor]
    present: Tensor
    rest: Tensor

    def whole(self) -> Tensor:
        """[T] losses of the global batch, without gradient."""
        return global_sum(torch.stack(self.losses)) / world_size()

    def combined(self, weights: Tensor | None = None) -> Tensor:
        """Σ_t w_t L_t + rest, with w = 1 where none are given."""
        factors = [None] * len(self.losses) if weights is None else list(weights)
        weighted = [
            loss if w is None else w * loss for w, loss in zip(factors, self.losses, strict=True)
        ]
        return reduce(add, weighted) + self.rest


def task_losses(step: Step) -> TaskLosses:
    """Group the terms of a step by their task."""
    zero = next(iter(step.losses.values())).new_zeros(())
    losses: dict[str, list[Tensor]] = {task: [] for task in step.tasks}
    seen: dict[str, list[Any]] = {task: [] for task in step.tasks}
    rest = zero
    for name, term in step.terms.items():
        value = term.weighted(step.losses[name])
        if term.task in losses:
            losses[term.task].append(value)
            seen[term.task].append(kept(term))
        else:
            rest = rest + value
    summed = [reduce(add, values) if values else zero for values in losses.values()]
    return TaskLosses(summed, present([sum(counts) for counts in seen.values()], zero), rest)


def kept(term: Term) -> Tensor | float:
    """How many samples of this rank a term counts; one where it has no mask."""
    return 1.0 if term.mask is None else term.mask.detach().sum().float()


def present(counts: list[Tensor | float], like: Tensor) -> Tensor:
    """[T] whether any rank counts samples of a task."""
    if world_size() == 1 and all(isinstance(count, float) and count > 0 for count in counts):
        return torch.ones(len(counts), dtype=torch.bool, device=like.device)
    return global_sum(torch.stack([like + count for count in counts])) > 0


def normalized(weights: Tensor, present: Tensor, how: NormalizeSum) -> Tensor:
    """Weights [T] scaled to a sum, over the tasks that are present, of 1 or of their number; `none`
    leaves them."""
    if how == "none":
        return weights
    total = torch.where(present, weights, 0).sum()
    wanted = 1.0 if how == "one" else present.sum()
    return weights * wanted / total.clamp_min(torch.finfo(weights.dtype).tiny)
