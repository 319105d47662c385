"""Post-hoc logit adjustment. Menon et al., ICLR 2021, arXiv 2007.07314."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from methods.long_tail.logit_adjustment import adjusted
from recipes.contract import Context, Declaration, Method


class PosthocLogitAdjustment(Method):
    """argmax_c (z_c - τ log π_c) at prediction, after training with cross-entropy; the sign is that
    of the paper's derivation.

    The raw network is evaluated as well.

    tau: strength τ of the shift, at least 0; 1 (paper); best tuned on held-out data; 0: none.
    """

    neutral = {"tau": 0}
    declaration = Declaration(slots=("prior_correction",))

    def __init__(self, tau: Annotated[float, Field(ge=0)] = 1.0):
        self.tau = tau

    def infer(self, logits: Tensor, task: str, context: Context) -> Tensor:
        return adjusted(logits, context.statistics.log_prior(task), -self.tau)
