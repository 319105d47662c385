"""Cross-entropy, and the criterion of a run: cross-entropy after the methods' logit adjustments,
times their weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Role = Literal["labeled", "pseudo"]
# the first argument is the step, whose file imports this one
Adjust = Callable[[Any, Tensor, Tensor | None, str, Role], Tensor]
SampleWeights = Callable[[Any, Tensor, Tensor, str, Role], Tensor | None]
ClassLosses = Callable[[Any, Tensor, str, Role], Tensor | None]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-Σ_c t_c log p_c for each sample, [N].

    logits: [N, C]. target: [N] class indices (-1 gives loss 0), or dense [N, C] weights of classes.
    """
    if target.ndim == 1:
        return F.cross_entropy(logits, target, reduction="none", ignore_index=-1)
    return -(target * F.log_softmax(logits, dim=1)).sum(1)


def kl_divergence(target: Tensor, logits: Tensor, from_logits: bool = False) -> Tensor:
    """KL(p ‖ q) = Σ_c p_c (log p_c - log q_c) for each sample, [N], q = softmax(logits).

    target: [N, C], p without gradient; terms with p_c = 0 are 0.
    from_logits: target are logits, p = softmax(target), with gradient. Then log p is computed
        directly, so that value and gradient are finite for a saturated softmax.
    """
    if from_logits:
        log_p = F.log_softmax(target.float(), dim=1)
        log_q = F.log_softmax(logits.float(), dim=1)
        return (log_p.exp() * (log_p - log_q)).sum(1)
    log_q = F.log_softmax(logits, dim=1)
    return (torch.special.xlogy(target, target) - target * log_q).sum(1)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Dense float32 [N, C] targets; dense ones pass through, and a missing label (-1) becomes a row
    of zeros."""
    if target.ndim == 2:
        return target
    # torch's one_hot waits for the device to validate the labels
    return (target.unsqueeze(1) == torch.arange(classes, device=target.device)).float()


def of_target(table: Tensor, target: Tensor) -> Tensor:
    """table[i, target_i], [N], and 0 where a label is missing (-1); Σ_c t_c table[i, c] for dense
    targets."""
    if target.ndim == 2:
        return (target * table).sum(1)
    return table.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1) * (target >= 0)


def label_mass(target: Tensor) -> Tensor:
    """The share of every sample that has a label, float32 [N]: 1, and 0 where it is missing (-1);
    Σ_c t_c for dense targets, which is between the two where a labeled sample was mixed with an
    unlabeled one."""
    return (target >= 0).float() if target.ndim == 1 else target.sum(1)


@dataclass(frozen=True)
class Criterion:
    """L_i = Σ_c t_ic Π_m w_m(z', t)_ic · ℓ_c(z')_i with z' = a_k(… a_1(z)) and ℓ_c = -log p_c,
    unless a method has other class losses ℓ.

    So several methods can change one classification loss, exactly for soft targets as well. Weights
    are not normalized by their sum: a loss is divided by its samples. `role` is `labeled` for a
    loss on true targets and `pseudo` for one on pseudo-labels.

    adjustments, in order: (step, logits [N, C], target, task, role) -> logits.
    sample_weights: the same -> factors [N] of the samples, or [N, C] by true class, or None.
    class_losses: (step, logits, task, role) -> [N, C], the loss of each class if it were the true
        one, or None; at most one returns any.
    """

    adjustments: Sequence[Adjust] = ()
    sample_weights: Sequence[SampleWeights] = ()
    class_losses: Sequence[ClassLosses] = ()

    def adjust(
        self, step: Any, logits: Tensor, target: Tensor | None, task: str, role: Role
    ) -> Tensor:
        """z', the logits of the losses, [N, C]. target: [N], [N, C], or None for samples without
        one."""
        for change in self.adjustments:
            logits = change(step, logits, target, task, role)
        return logits

    def __call__(self, step: Any, logits: Tensor, target: Tensor, task: str, role: Role) -> Tensor:
        """The samples' losses, [N]."""
        logits = self.adjust(step, logits, target, task, role)
        by_class = self._by_class(step, logits, task, role)
        factors = self._factors(step, logits, target, task, role)
        if target.ndim == 1:
            if by_class is None:
                values = cross_entropy(logits, target)
            else:
                values = of_target(by_class, target)
            for factor in factors:
                values = values * (of_target(factor, target) if factor.ndim == 2 else factor)
            return values
        if by_class is None:
            by_class = -F.log_softmax(logits, dim=1)
        values = target * by_class
        for factor in factors:
            values = values * (factor if factor.ndim == 2 else factor.unsqueeze(1))
        return values.sum(1)

    def _by_class(self, step: Any, logits: Tensor, task: str, role: Role) -> Tensor | None:
        """ℓ [N, C] of the method that returns one."""
        for class_losses in self.class_losses:
            losses = class_losses(step, logits, task, role)
            if losses is not None:
                return losses
        return None

    def _factors(
        self, step: Any, logits: Tensor, target: Tensor, task: str, role: Role
    ) -> list[Tensor]:
        """The weights of all methods that return any."""
        factors = [weights(step, logits, target, task, role) for weights in self.sample_weights]
        return [factor for factor in factors if factor is not None]
