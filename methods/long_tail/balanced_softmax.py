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

    The same function as logit adjustment with τ = 1, under the name that recipes know it by: a
    softmax does not see the Σ n that separates log n from the log prior. logits [N, C] in float32,
    n [C]; a class without samples counts as one. Targets are indices or dense. Losses on
    pseudo-labels, confidences and predictions use raw z.
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
        return (
            adjusted(logits, context.statistics.log_prior(task), 1.0)
            if role == "labeled"
            else logits
        )
