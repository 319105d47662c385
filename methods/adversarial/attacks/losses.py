"""Losses of logits that attacks raise, [N] each, and objectives made of them.

With a saturated softmax the gradient of the cross-entropy is exactly zero; those of `margin` and
`dlr` are not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.step.criterion import cross_entropy, of_target, one_hot
from recipes.tasks.classification import Task

Logits = Mapping[str, Tensor]  # by task
Model = Callable[[Tensor], Logits]
Objective = Callable[[Tensor], Tensor]
Loss = Literal["ce", "margin", "dlr"]
_COUNTS: ContextVar[list[Tensor] | None] = ContextVar("counts", default=None)
# scales gradients of confident samples above the smallest fp16 number; exact, being a power of two
SCALE = 1024.0


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """max_{j≠y} z_j - z_y: positive for a misclassified sample; Σ_c t_c of it for dense targets."""
    if target.ndim == 2:
        # the largest of the others is the second for the best class, and the best for all others
        best = logits.topk(min(2, logits.shape[1]), dim=1)
        is_best = one_hot(best.indices[:, 0], logits.shape[1]).bool()
        wrong = torch.where(is_best, best.values[:, -1:], best.values[:, :1])
        return of_target(wrong - logits, target)
    own = target.clamp_min(0).unsqueeze(1)  # a missing label counts as class 0
    wrong = logits.scatter(1, own, -torch.inf).amax(1)
    return wrong - logits.gather(1, own).squeeze(1)


def dlr(logits: Tensor, target: Tensor) -> Tensor:
    """-(z_y - max_{j≠y} z_j) / (z₍₁₎ - z₍₃₎ + 1e-12), difference of logits ratio (Croce and Hein,
    ICML 2020, arXiv 2003.01690): free of the logits' scale. It needs three classes: with two it
    would be ±1."""
    top = logits.topk(3, dim=1).values
    return margin(logits, target) / (top[:, 0] - top[:, -1] + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}


def objective(
    model: Model, targets: Mapping[str, Tensor], loss: Loss = "ce", sign: float = 1.0
) -> Objective:
    """x -> sign · Σ_tasks loss, [N]; a missing label (-1) has loss 0. With sign -1 and the labels
    that an attacker wants it is a targeted attack."""

    def values(x: Tensor) -> Tensor:
        logits = model(x)
        losses = []
        for task, target in targets.items():
            losses.append(_known(LOSSES[loss](logits[task].float(), target), target))
        return sign * reduce(add, losses)

    return values


def check_loss(key: str, loss: Loss, tasks: Mapping[str, Task]) -> None:
    """UserError where the loss cannot be raised: dlr with fewer than three classes."""
    for name, task in tasks.items():
        if loss == "dlr" and task.outputs < 3:
            raise UserError(
                f"{key}.loss=dlr",
                f"task '{name}' has {task.outputs} classes, with which this loss is constant and "
                "has no gradient; expected at least 3",
                "use margin or ce",
            )


def _known(values: Tensor, target: Tensor) -> Tensor:
    return torch.where(target >= 0, values, 0.0) if target.ndim == 1 else values


@contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """Parameters have `requires_grad=False` during an attack, which needs the gradient of the input
    only: forwards then store no activations for parameters, a quarter of a transformer's memory.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def counting() -> Iterator[list[Tensor]]:
    """Collects, for every call of `input_gradient` inside, the number of entries that are not
    finite. Attacks replace them by 0: a sample without finite entries is not attacked, and its
    robustness means nothing."""
    counts: list[Tensor] = []
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


def input_gradient(value: Objective, x: Tensor) -> Tensor:
    """∇ₓ Σ_i value(x)_i in float32: a sample's gradient does not depend on the batch size, and no
    parameter's `.grad` changes."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(SCALE * value(leaf).sum(), leaf)
    gradient = gradient.float() / SCALE
    counts = _COUNTS.get()
    if counts is not None:
        counts.append((~gradient.isfinite()).sum())
    return gradient
