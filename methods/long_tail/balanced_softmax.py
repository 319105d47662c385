"""Balanced softmax. Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS
2020, arXiv 2007.10740."""

from torch import Tensor

from methods.long_tail.logit_adjustment import adjusted
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role


class BalancedSoftmax(Method):
    """L = -log(n_y e^{z_y} / Σ_c n_c e^{z_c}) = CE(z + log n, y), n_c the labeled training samples
    of class c.

    Equal to logit adjustment with τ = 1, under its published name: log n and the log prior differ
    by a constant, which a softmax ignores. logits [N, C] in float32, n [C]; for a class without
    samples n_c = 1. Targets are indices or dense. Losses on pseudo-labels, confidences and
    predictions use raw z.
    """

    declaration = Declaration(slots=("prior_correction",), tags=("adjusts_logits",), sharded=True)

    def adjust(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor | None,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor:
        if role != "labeled":
            return logits
        return adjusted(logits, context.statistics.log_prior(task), 1.0)
