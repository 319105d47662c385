"""Translates Hydra's sweep syntax into an Optuna search space.

optimizer.lr=tag(log,interval(1e-4,1e-1))   a number in the interval, on a logarithmic scale
data.labels_per_class=int(interval(1,16))   an integer, both ends included
trainer.max_steps=range(100,1000,step=100)  100, 200 … 900
optimizer=sgd,adamw                         a choice; also optimizer=choice(sgd,adamw)
seed=0,1,2                                  not searched: a trial is the mean over these runs
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from foundation.errors import UserError
from recipes.config.keys import key_of, value_of
from recipes.config.stage_keys import stage_keys_from_hydra
from recipes.sweeps.grid import values
from recipes.sweeps.record import Job
from recipes.sweeps.table import brief

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SEED = "seed"


@dataclass
class Space:
    """A search space.

    fixed: overrides of every job.
    seeds: additional overrides of each run of a trial; one empty list where no seed is swept.
    searched: distributions by key.
    """

    fixed: list[str] = field(default_factory=list)
    seeds: list[list[str]] = field(default_factory=lambda: [[]])
    searched: "dict[str, BaseDistribution]" = field(default_factory=dict)

    def jobs(self, parameters: dict[str, Any]) -> list[Job]:
        """The runs of one trial."""
        sampled = [f"{key}={parameters[key]}" for key in self.searched]
        keys = {key: key_of(stage_keys_from_hydra(key)) for key in self.searched}
        label = [f"{keys[key]}={brief(str(parameters[key]))}" for key in keys]
        return [
            Job([*self.fixed, *sampled, *seed], " ".join([*label, *seed])) for seed in self.seeds
        ]


def read_space(overrides: Sequence[Override]) -> Space:
    """The search space of a command. Raises `UserError` where no key is swept."""
    space = Space()
    for override in overrides:
        if not override.is_sweep_override():
            space.fixed += values(override)
        elif override.get_key_element() == SEED and override.is_discrete_sweep():
            space.seeds = [[value] for value in values(override)]
        else:
            space.searched[override.get_key_element()] = distribution(override)
    if not space.searched:
        remedy = "give values of a key, e.g. 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        raise UserError("hydra/sweeper=roux_optuna", "nothing to search", remedy)
    return space


def distribution(override: Override) -> "BaseDistribution":
    """The distribution of one swept override. Raises `UserError` for a wrong interval or range."""
    try:
        return _distribution(override)
    except ValueError as error:
        raise UserError(f"{override.input_line}: {' '.join(str(error).split())}") from error


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        low = sweep.start or 0
        high = sweep.end or 0
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log)
        return FloatDistribution(float(low), float(high), log)
    numbers = []
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        numbers = list(sweep.range())
    if not numbers:
        # choices are stored as the text of their override
        return CategoricalDistribution([value_of(text) for text in values(override)])
    if log:
        raise ValueError("a range has steps, not a scale; use an interval")
    step = abs(sweep.step)
    if all(isinstance(n, int) for n in numbers):
        return IntDistribution(min(numbers), max(numbers), step=step)
    return FloatDistribution(min(numbers), max(numbers), step=step)
