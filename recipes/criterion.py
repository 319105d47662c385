"""Cross-entropy, plain and as the methods of a run have it: a chain of logit adjustments and a product of weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Role = Literal["labeled", "pseudo"]
Adjust = Callable[[Tensor, Tensor | None, str, Role], Tensor]
Weigh = Callable[[Tensor, Tensor, str, Role], Tensor | None]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-Σ_c t_c log p_c for each sample, [N].

    logits: [N, C]. target: [N] class indices (-1 gives loss 0), or dense [N, C] weights of classes.
    """
    if target.ndim == 1:
        return F.cross_entropy(logits, target, reduction="none", ignore_index=-1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Dense float32 [N, C] targets; dense ones pass through, and a missing label (-1) becomes a row of zeros."""
    if target.ndim == 2:
        return target
    return F.one_hot(target.clamp_min(0), classes).float() * (target >= 0).unsqueeze(1)


@dataclass(frozen=True)
class Criterion:
    """L_i = Π_m w_m(z', t)_i · CE(z', t)_i with z' = a_k(… a_1(z)).

    So whatever several methods change of a classification loss composes. Weights are not normalised by their sum: a
    loss divides by its samples, as everywhere. `role` is `labeled` for a loss on true targets and `pseudo` for one on
    targets that the model made itself.

    adjustments, in order: (logits [N, C], target, task, role) -> logits. weightings: the same -> factors [N], or None.
    """

    adjustments: Sequence[Adjust] = ()
    weightings: Sequence[Weigh] = ()

    def adjust(self, logits: Tensor, target: Tensor | None, task: str, role: Role) -> Tensor:
        """z', the logits that losses see, [N, C]. target: [N], [N, C], or None where a sample has none."""
        for change in self.adjustments:
            logits = change(logits, target, task, role)
        return logits

    def __call__(self, logits: Tensor, target: Tensor, task: str, role: Role) -> Tensor:
        """The samples' losses, [N]."""
        logits = self.adjust(logits, target, task, role)
        values = cross_entropy(logits, target)
        for weigh in self.weightings:
            weights = weigh(logits, target, task, role)
            values = values if weights is None else weights * values
        return values
