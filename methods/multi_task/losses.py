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
    """by_task: L_t, scalars of this rank with graph, in the order of the tasks: all terms of a task
    with their weights, a semi-supervised one beside the supervised one. present: bool [T], False
    where no sample of the global batch has a label of the task. rest: the sum of the terms that
    belong to no task; no weighting touches it.
    """

    by_task: list[Tensor]
    present: Tensor
    rest: Tensor

    def whole(self) -> Tensor:
        """[T] losses of the global batch, without gradient."""
        return global_sum(torch.stack(self.by_task)) / world_size()

    def weighted_sum(self, weights: Tensor | None = None) -> Tensor:
        """Σ_t w_t L_t + rest. weights: [T], None for w = 1."""
        terms = self.by_task
        if weights is not None:
            terms = [w * loss for w, loss in zip(weights, self.by_task, strict=True)]
        return reduce(add, terms) + self.rest


def task_losses(step: Step) -> TaskLosses:
    """Group the terms of a step by their task."""
    zero = next(iter(step.losses.values())).new_zeros(())
    terms: dict[str, list[Tensor]] = {task: [] for task in step.tasks}
    counts: dict[str, list[Any]] = {task: [] for task in step.tasks}
    rest = zero
    for name, term in step.terms.items():
        value = term.weighted(step.losses[name])
        if term.task in terms:
            terms[term.task].append(value)
            counts[term.task].append(sample_count(term))
        else:
            rest = rest + value
    by_task = [reduce(add, values) if values else zero for values in terms.values()]
    totals = [sum(of_terms) for of_terms in counts.values()]
    return TaskLosses(by_task, present(totals, zero), rest)


def sample_count(term: Term) -> Tensor | float:
    """How many samples of this rank a term counts; one where it has no mask."""
    counts = term.sample_counts
    return 1.0 if counts is None else counts.sum().float()


def present(counts: list[Tensor | float], like: Tensor) -> Tensor:
    """Whether any rank counts samples of a task, bool [T]. counts: of this rank, by task."""
    # without masks every count is a number: neither ranks nor the device are waited for
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
