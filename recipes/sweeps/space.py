"""A search space in Hydra's words for sweeps, in Optuna's.

optimizer.lr=tag(log,interval(1e-4,1e-1))   any number between, drawn on a logarithmic scale
data.labels_per_class=int(interval(1,16))   a whole number, both ends included
trainer.max_steps=range(100,1000,step=100)  100, 200 … 900
optimizer=sgd,adamw                         one of these; also optimizer=choice(sgd,adamw)
seed=0,1,2                                  no part of the search: every trial is the mean over
these runs
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
    """fixed: overrides of every job. seeds: overrides of the runs of a trial, one where no seed is
    swept. searched: by key."""

    fixed: list[str] = field(default_factory=list)
    seeds: list[list[str]] = field(default_factory=lambda: [[]])
    searched: "dict[str, BaseDistribution]" = field(default_factory=dict)

    def jobs(self, parameters: dict[str, Any]) -> list[Job]:
        """The runs of one trial."""
        drawn = [f"{key}={parameters[key]}" for key in self.searched]
        keys = {key: key_of(stage_keys_from_hydra(key)) for key in self.searched}
        label = [f"{keys[key]}={brief(str(parameters[key]))}" for key in keys]
        return [Job([*self.fixed, *drawn, *seed], " ".join([*label, *seed])) for seed in self.seeds]


def read_space(overrides: Sequence[Override]) -> Space:
    """Raises `UserError` where there is nothing to search."""
    space = Space()
    for override in overrides:
        if not override.is_sweep_override():
            space.fixed += values(override)
        elif override.get_key_element() == SEED and override.is_discrete_sweep():
            space.seeds = [[value] for value in values(override)]
        else:
            space.searched[override.get_key_element()] = distribution(override)
    if not space.searched:
        raise UserError(
            "hydra/sweeper=roux_optuna: nothing to search; name values of a key, as in "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    return space


def distribution(override: Override) -> "BaseDistribution":
    """Numbers are drawn as numbers; choices as the text of their override, so that storage holds
    text and numbers."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    log = "log" in getattr(sweep, "tags", ())
    try:
        if isinstance(sweep, IntervalSweep):
            low, high = sweep.start or 0, sweep.end or 0
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log)
            return FloatDistribution(float(low), float(high), log)
        numbers = list(sweep.range()) if isinstance(sweep, RangeSweep) and not sweep.shuffle else []
        if numbers and log:
            raise ValueError("a range has steps and no scale; give an interval")
        if numbers:
            low = min(numbers)
            high = max(numbers)
            step = abs(sweep.step)
            whole = all(isinstance(n, int) for n in numbers)
            return (
                IntDistribution(low, high, step=step)
                if whole
                else FloatDistribution(low, high, step=step)
            )
        return CategoricalDistribution([value_of(text) for text in values(override)])
    except ValueError as error:
        raise UserError(f"{override.input_line}: {' '.join(str(error).split())}") from error
