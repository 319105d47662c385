"""Learning rate schedules: a factor of the base rate as a pure function of the optimizer step.

All schedules begin with the same linear warm-up: factor (t+1)/W at step t < W, so that no step has
rate 0. Then the factor is a curve over u = (t-W)/(K-W) in [0, 1], where K is the number of steps of
the run; after K it is constant. All parameter groups have the same factor, which preserves the
ratio of their rates, except those marked `constant`, whose factor is 1."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from foundation.types import Scale, Share, StepsOrShare, steps_of

CONSTANT = "constant"  # key of a parameter group whose rate does not follow the schedule


@dataclass(frozen=True)
class Schedule(ABC):
    """Linear warm-up, then `curve`.

    warmup_steps: optimizer steps in which the rate rises linearly, at least 0, or a share of the
        run below 1.
    scale: factor of the whole schedule, above 0; 1; below it in a stage that trains on at a share
        of the rate.
    """

    warmup_steps: StepsOrShare = 0
    scale: Scale = 1.0

    @abstractmethod
    def curve(self, u: float) -> float:
        """Factor at `u`, the fraction in [0, 1] of the steps after the warm-up."""

    def factor(self, step: int, total: int) -> float:
        """Factor of the base rate at optimizer step `step` (from 0) of `total`."""
        warmup = steps_of(self.warmup_steps, total)
        if step < warmup:
            return self.scale * (step + 1) / warmup
        steps = step - warmup
        total_steps = max(total - warmup, 1)
        return self.scale * self.curve(min(steps / total_steps, 1.0))

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        """torch's scheduler for a run of `total_steps`."""

        def scheduled(step: int) -> float:
            return self.factor(step, total_steps)

        return LambdaLR(optimizer, group_factors(optimizer, scheduled))


@dataclass(frozen=True)
class Constant(Schedule):
    """Factor 1 after the warm-up."""

    def curve(self, u: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Schedule):
    """1 - (1 - final) u: a straight line from 1 to `final`.

    final: factor of the base rate at the last step, 0 to 1; 0.
    """

    final: Share = 0.0

    def curve(self, u: float) -> float:
        return 1.0 - (1.0 - self.final) * u


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (1 - final) (1 + cos πu) / 2: half a cosine from 1 to `final`, without restarts
    (Loshchilov and Hutter, arXiv 1608.03983).

    final: factor of the base rate at the last step, 0 to 1; 0 (paper).
    """

    final: Share = 0.0

    def curve(self, u: float) -> float:
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * u)) / 2.0


@dataclass(frozen=True)
class FixMatchCosine(Schedule):
    """cos(7πu/16): FixMatch's decay (Sohn et al., arXiv 2001.07685), which ends at 0.195."""

    def curve(self, u: float) -> float:
        return math.cos(7.0 * math.pi * u / 16.0)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """final + (1 - final) (1 - u)^power.

    power: exponent, above 0; 0.9 (segmentation networks); 1: a straight line.
    final: factor of the base rate at the last step, 0 to 1; 0.
    """

    power: Scale = 0.9
    final: Share = 0.0

    def curve(self, u: float) -> float:
        return self.final + (1.0 - self.final) * (1.0 - u) ** self.power


@dataclass(frozen=True)
class MultiStep(Schedule):
    """gamma^m, m the number of milestones that are behind.

    milestones: steps of the run after which the rate falls, or shares of it below 1; [0.5, 0.75].
    gamma: factor at each milestone, above 0; 0.1.
    """

    milestones: list[StepsOrShare] = field(default_factory=lambda: [0.5, 0.75])
    gamma: Scale = 0.1

    def curve(self, u: float) -> float:
        return 1.0

    def factor(self, step: int, total: int) -> float:
        passed = sum(step >= steps_of(milestone, total) for milestone in self.milestones)
        return super().factor(step, total) * self.gamma**passed


@dataclass(frozen=True)
class StepDecay(Schedule):
    """gamma^floor(t / every).

    every: optimizer steps after which the rate falls, at least 1, or a share of the run below 1;
        0.3.
    gamma: factor at each fall, above 0; 0.1.
    """

    every: StepsOrShare = 0.3
    gamma: Scale = 0.1

    def curve(self, u: float) -> float:
        return 1.0

    def factor(self, step: int, total: int) -> float:
        every = max(steps_of(self.every, total), 1)
        return super().factor(step, total) * self.gamma ** (step // every)


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """1 until the decay begins, then final + (1 - final) (1 - √v), v the fraction of the decay that
    is done: warm-up, stable, decay (Hägele et al., NeurIPS 2024, arXiv 2405.18392).

    A run can be prolonged from a checkpoint before the decay, which no cosine allows.

    decay: optimizer steps of the decay at the end, at least 1, or a share of the run below 1; 0.2.
    final: factor of the base rate at the last step, 0 to 1; 0.
    """

    warmup_steps: StepsOrShare = 0.05
    decay: StepsOrShare = 0.2
    final: Share = 0.0

    def curve(self, u: float) -> float:
        return 1.0

    def factor(self, step: int, total: int) -> float:
        decay = max(steps_of(self.decay, total), 1)
        done = min(max(step - (total - decay), 0) / decay, 1.0)
        return super().factor(step, total) * (
            self.final + (1.0 - self.final) * (1.0 - math.sqrt(done))
        )


def build_scheduler(optimizer: Optimizer, settings: Schedule, total_steps: int) -> LambdaLR:
    """A scheduler for Lightning's `interval: step`: stepped once after every optimizer step.

    total_steps: optimizer steps of the run.
    """
    return settings.scheduler(optimizer, total_steps)


def group_factors(
    optimizer: Optimizer, scheduled: Callable[[int], float]
) -> list[Callable[[int], float]]:
    """The factor of every parameter group: `scheduled`, and 1 for a `constant` group."""

    def constant(step: int) -> float:
        return 1.0

    groups = optimizer.param_groups
    return [constant if group.get(CONSTANT) else scheduled for group in groups]


def set_rates(scheduler: LambdaLR) -> None:
    """Set every group's rate to its base rate times its factor at the present step."""
    pairs = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * factor(scheduler.last_epoch) for base, factor in pairs]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # a captured kernel reads this tensor
        else:
            group["lr"] = rate
    scheduler._last_lr = rates
