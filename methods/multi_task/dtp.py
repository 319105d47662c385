"""Dynamic Task Prioritization. Guo, Haque, Huang, Yeung and Fei-Fei, Dynamic Task Prioritization
for Multitask Learning, ECCV 2018."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foundation.distributed import global_sum
from foundation.errors import UserError
from foundation.types import Weight
from methods.focal import modulation
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Weighting, WeightingState
from recipes.contract import Context, Declaration
from recipes.step import Step
from recipes.step.criterion import Role, label_mass

LEAST, MOST = 0.05, 0.99  # of a KPI in its weight: at 0 the weight is infinite, at 1 it is 0
TWICE = (
    "both weigh well-classified samples down, which would be twice; set "
    "methods.dtp.example_gamma=0 or leave one out"
)


def focal_weights(kpi: Tensor, gamma: Tensor | float) -> Tensor:
    """w = -(1 - κ)^γ ln κ, [T], κ held within [0.05, 0.99]."""
    kept = kpi.clamp(LEAST, MOST)
    return -((1 - kept) ** gamma) * kept.log()


def moved_average(kpi: Tensor, value: Tensor, seen: Tensor, momentum: float) -> Tensor:
    """κ̄ ← a κ + (1 - a) κ̄, and κ itself where none was seen before; [T]. momentum: a."""
    return torch.where(seen, momentum * value + (1 - momentum) * kpi, value)


def correct_and_labeled(logits: Tensor, target: Tensor) -> Tensor:
    """[2]: samples with a label whose largest logit is that of it, and samples with a label. Of a
    mixed target the label is the dominant one."""
    labeled = label_mass(target) > 0
    label = target.argmax(1) if target.ndim == 2 else target
    correct = labeled & (logits.argmax(1) == label)
    return torch.stack([correct.sum(), labeled.sum()]).float()


def above_chance(accuracy: Tensor, classes: Tensor) -> Tensor:
    """(κ - 1/C) / (1 - 1/C), at least 0; [T]."""
    chance = 1 / classes
    return ((accuracy - chance) / (1 - chance).clamp_min(1e-8)).clamp_min(0)


class DTPState(WeightingState):
    """kpi [T]: κ̄. seen bool [T]: tasks that have one. exponents [T]: γ. classes [T]."""

    kpi: Tensor
    seen: Tensor
    exponents: Tensor
    classes: Tensor

    def __init__(self, tasks: int):
        super().__init__(tasks)
        self.register_buffer("kpi", torch.zeros(tasks))
        self.register_buffer("seen", torch.zeros(tasks, dtype=torch.bool))
        self.register_buffer("exponents", torch.ones(tasks), persistent=False)
        self.register_buffer("classes", torch.ones(tasks), persistent=False)


class DTP(Weighting):
    """L = Σ_t w_t L*_t, w_t = -(1 - κ̄_t)^γ ln κ̄_t: difficult tasks first; κ̄_t is a running mean of
    the task's accuracy, L*_t the focal loss -(1 - p_y)^{γ₀} ln p_y of its samples.

    When accuracy says which task needs the network more, and tasks are of similar noise: a task
    that cannot be learnt keeps a large weight for the whole run. Before a task's first κ its weight
    is 1. κ̄ in the weight is within [0.05, 0.99]. Weights have no gradient, and heads see them. The
    sum of the weights falls as tasks are learnt, and with it the length of the steps, unless
    normalize_sum is set. Pseudo-labels do not count and have no focal factor; the predictions are
    those of the batch as trained on, so with attacks in training κ is the robust accuracy. A κ of
    the validation part would let it into training, and a run resumed between a step and its
    validation would miss it. The paper's third part, heads of easy tasks on shallow layers, is not
    included.

    gamma: exponent γ, at least 0: one, or one a task; 1 (ours; the paper gives none).
    example_gamma: exponent γ₀ of the samples, at least 0; 2 (focal loss); 0: cross-entropy.
    momentum: a in κ̄ ← aκ + (1 - a)κ̄, in (0, 1]; 0.1 (ours).
    chance_correct: use (κ - 1/C) / (1 - 1/C), so that tasks of different numbers of classes start
        alike; false (paper).
    normalize_sum: rescale w to the sum `one` or `tasks` (T); `none` (paper).
    """

    def __init__(
        self,
        gamma: Weight | list[Weight] = 1.0,
        example_gamma: Weight = 2.0,
        momentum: Annotated[float, Field(gt=0, le=1)] = 0.1,
        chance_correct: bool = False,
        normalize_sum: NormalizeSum = "none",
    ):
        self.gamma: float | list[float] = gamma
        self.example_gamma = example_gamma
        self.momentum = momentum
        self.chance_correct = chance_correct
        self.normalize_sum = normalize_sum

    def declare(self) -> Declaration:
        focal = self.example_gamma > 0
        return Declaration(
            tasks_at_least=2,
            slots=("combine",),
            tags=("task_weights", "focal") if focal else ("task_weights",),
            refuses={"focal": TWICE} if focal else {},
        )

    def state(self, tasks: int) -> DTPState:
        return DTPState(tasks)

    def build(self, context: Context) -> None:
        super().build(context)
        tasks = len(context.tasks)
        exponents = self.gamma if isinstance(self.gamma, list) else [self.gamma] * tasks
        if len(exponents) != tasks:
            raise UserError(
                f"methods.{self.key}.gamma",
                f"found {len(exponents)} exponents for {tasks} tasks",
                "give one, or one a task",
            )
        state: DTPState = self.module(context)
        state.exponents.copy_(torch.tensor(exponents))
        state.classes.copy_(torch.tensor([float(task.outputs) for task in context.tasks.values()]))

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        if role != "labeled" or self.example_gamma == 0:
            return None
        return modulation(logits, self.example_gamma)

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        state: DTPState = self.module(context)
        targets = step.inputs["labeled"].targets
        counts = [
            correct_and_labeled(step.logits("labeled", task), targets[task]) for task in step.tasks
        ]
        correct, labeled = global_sum(torch.stack(counts)).unbind(1)
        self.update(state, correct / labeled.clamp_min(1), labeled > 0)
        weights = focal_weights(state.kpi, state.exponents)
        return torch.where(state.seen, weights, 1.0)

    def update(self, state: DTPState, accuracy: Tensor, known: Tensor) -> None:
        """Move κ̄ of the tasks whose accuracy [T] is known."""
        value = above_chance(accuracy, state.classes) if self.chance_correct else accuracy
        moved = moved_average(state.kpi, value, state.seen, self.momentum)
        state.kpi.copy_(torch.where(known, moved, state.kpi))
        state.seen |= known
