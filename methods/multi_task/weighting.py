"""What the weightings share: they own the combination of losses, and differ in how they find w."""

import torch
from torch import Tensor, nn

from foundation.devices import precise
from methods.multi_task.branching import asks_for_itself, with_gradients
from methods.multi_task.gram import (
    BIASES_ALONE,
    NO_LAYER_SHARED,
    NOTHING_SHARED_LEARNS,
    ONE_REPRESENTATION,
    GradSource,
    GramProvider,
    Update,
)
from methods.multi_task.losses import NormalizeSum, TaskLosses, normalized, task_losses
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.gates import Gates

# all but float16, whose loss scale the gradients of the tasks would carry
UNSCALED = ("32-true", "64-true", "bf16-mixed", "bf16-true", "bf16", "32", "64")


class WeightingState(nn.Module):
    """weights [T]: those in use. Checkpointed, equal on all ranks, never averaged."""

    weights: Tensor

    def __init__(self, tasks: int):
        super().__init__()
        self.register_buffer("weights", torch.ones(tasks))


class Weighting(Method):
    """Σ_t w_t L_t with w from `task_weights`; terms of no task are added as they are.

    A subclass fills `task_weights`. scale_heads: heads see w_t too. Without it the gates scale what
    the tasks share and every head learns from its own loss. In a step's second pass (SAM) the
    weights are those of the first. Where weights come out as no finite numbers, the last ones hold.
    """

    normalize_sum: NormalizeSum = "none"
    scale_heads: bool = True
    update_every: int = 1

    def declare(self) -> Declaration:
        return Declaration(tasks_at_least=2, slots=("combine",), tags=("task_weights",))

    def state(self, tasks: int) -> WeightingState:
        return WeightingState(tasks)

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        """[T] weights, without gradient, equal on all ranks."""
        raise TypeError(f"{type(self).__name__} has no weights")

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = self.state(len(context.tasks))
        if not self.scale_heads:
            context.network.gates = Gates(context.tasks)

    def combine(self, step: Step, context: Context) -> Tensor:
        losses = task_losses(step)
        state = self.module(context)
        if not step.replay and step.progress.step % self.update_every == 0:
            with torch.no_grad():
                weights = self.task_weights(losses, step, context).to(state.weights)
                weights = normalized(weights, losses.present, self.normalize_sum)
                usable = losses.present & weights.isfinite().all()
                state.weights.copy_(torch.where(usable, weights, state.weights))
        weights = state.weights.clone()
        for task, weight in zip(step.tasks, weights, strict=True):
            step.scalar(f"weight/{task}", weight)
        if context.network.gates is None:
            return losses.weighted_sum(weights)
        context.network.gates.set(weights)
        return self.objective(losses, weights, step)

    def objective(self, losses: TaskLosses, weights: Tensor, step: Step) -> Tensor:
        """Σ_t L_t + rest, whose backward goes through gates that hold the weights."""
        return losses.weighted_sum()


class GramWeighting(Weighting):
    """w = f(G), G the Gram matrix of the tasks' gradients by `grad_source` (see `GramProvider`)."""

    def __init__(
        self,
        grad_source: GradSource,
        normalize_sum: NormalizeSum = "none",
        scale_heads: bool = True,
        update_every: int = 1,
        layer: str | None = None,
    ):
        self.grad_source: GradSource = grad_source
        self.normalize_sum = normalize_sum
        self.scale_heads = scale_heads
        self.update_every = update_every
        self.layer = layer

    def declare(self) -> Declaration:
        refuses = {"freezes_backbone": NOTHING_SHARED_LEARNS}
        if self.grad_source == "shared":
            refuses["shares_no_layer"] = NO_LAYER_SHARED
        else:
            refuses["features_by_task"] = ONE_REPRESENTATION
        if self.grad_source == "last_shared":
            refuses["biases_only"] = BIASES_ALONE
        return Declaration(
            tasks_at_least=2,
            slots=("combine",),
            tags=("task_weights",),
            refuses=refuses,
            precisions=UNSCALED,
        )

    def solve(self, gram: Tensor, losses: TaskLosses, step: Step) -> Tensor:
        """[T] weights from G [T, T] in float64."""
        raise TypeError(f"{type(self).__name__} has no solution")

    def gram(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        """G [T, T] in float64."""
        inputs = [entry.embedded.x for entry in step.inputs.values() if entry.network == "student"]
        through = any(asks_for_itself(x, context.parameters()) for x in inputs if x.requires_grad)
        keep = losses.rest.requires_grad
        provider = GramProvider(self.grad_source, self.layer, keep=keep, through=through)
        with torch.enable_grad():
            gram = provider(losses.by_task, step.representations, context)
        step.scratch[self.key] = provider.update
        return precise(gram)

    def objective(self, losses: TaskLosses, weights: Tensor, step: Step) -> Tensor:
        """The same, whose backward is done already as far as G needed it."""
        # the gradients that finding G has left, where it was found in this pass
        update: Update | None = step.scratch.pop(self.key, None)
        if update is None:
            return super().objective(losses, weights, step)
        return with_gradients(torch.stack(losses.by_task).sum(), update(weights)) + losses.rest

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        return self.solve(self.gram(losses, step, context), losses, step)


def without_absent(gram: Tensor, present: Tensor) -> Tensor:
    """G [T, T] with the rows of absent tasks, and of those without gradient, replaced by those of a
    task of length 1 that is orthogonal to all others: it leaves their weights alone."""
    usable = present & (gram.diagonal() > 1e-12 * gram.diagonal().amax())
    orthogonal = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.where(usable[:, None] & usable[None, :], gram, orthogonal)
