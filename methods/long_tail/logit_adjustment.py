"""Logit adjustment in training. Menon et al., Long-tail learning via logit adjustment, ICLR 2021,
arXiv 2007.07314."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.distributed import global_sum, world_size
from recipes.contract import Context, Declaration, Horizon, Method
from recipes.step import Step
from recipes.step.criterion import Role
from recipes.step.ramps import decay_within


def adjusted(logits: Tensor, log_prior: Tensor, tau: float) -> Tensor:
    """z + τ log π, in float32. logits: [N, C], log_prior: [C]."""
    return logits.float() + (log_prior if tau == 1.0 else tau * log_prior)


class RunningPrior(nn.Module):
    """The class prior of the unlabeled stream: p ← a p + (1-a) mean q over the global batch, from a
    uniform start."""

    prior: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("prior", torch.full((classes,), 1.0 / classes))

    @torch.no_grad()
    def update(self, probabilities: Tensor, momentum: float) -> None:
        batch = global_sum(probabilities.mean(0)) / world_size()
        self.prior.lerp_(batch.to(self.prior.dtype), 1.0 - momentum)


class LogitAdjustment(Method):
    """L = CE(z + τ log π, y), π the class frequencies of the labeled training samples; predictions
    use raw z.

    Uses τ log π, not the authors' log(π^τ + 1e-12), which is floored at large τ; a class without
    samples counts as one. Pseudo-labels, confidences, EMA and evaluation use raw logits.

    tau: strength τ of the shift, at least 0; 1 (paper): consistent for the balanced error. It then
        equals balanced softmax.
    adjust_unlabeled: adjust the loss on pseudo-labels too, by the mean of the predictions; false
        (ours). For unlabeled data with the same long tail as the labels.
    prior_momentum: largest momentum a of that mean over global batches, in [0, 1); 0.999.
    prior_horizon: share of the run that the mean covers, in (0, 1]; null: prior_momentum alone;
        0.05 (ours). a is at most 1 - 1/(prior_horizon · steps).
    """

    neutral = {"tau": 0}

    # after: the running prior reads the pseudo-labels that other methods publish in `terms`
    declaration = Declaration(
        slots=("prior_correction",),
        tags=("adjusts_logits",),
        after=("unlabeled_loss",),
        sharded=True,
        lower_on_collapse=("tau",),
    )

    def __init__(
        self,
        tau: Annotated[float, Field(ge=0)] = 1.0,
        adjust_unlabeled: bool = False,
        prior_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        prior_horizon: Horizon | None = 0.05,
    ):
        self.tau = tau
        self.adjust_unlabeled = adjust_unlabeled
        self.momentum = prior_momentum
        self.horizon = prior_horizon

    def build(self, context: Context) -> None:
        if self.adjust_unlabeled:
            priors = {name: RunningPrior(task.outputs) for name, task in context.tasks.items()}
            context.method_modules[self.key] = nn.ModuleDict(priors)

    def adjust(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor | None,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor:
        if role == "labeled":
            return adjusted(logits, context.statistics.log_prior(task), self.tau)
        if self.adjust_unlabeled:
            prior = context.method_modules[self.key][task].prior
            return adjusted(logits, torch.log(prior.clamp_min(1e-6)), self.tau)
        return logits

    def terms(self, step: Step, context: Context) -> None:
        if self.adjust_unlabeled and not step.replay:
            momentum = decay_within(self.momentum, self.horizon, context.total_steps)
            for task, pseudo in step.pseudo.items():
                context.method_modules[self.key][task].update(pseudo.probabilities, momentum)
