"""Types of settings with their ranges. Validation reads the ranges, and its messages name them."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
# a number of steps, samples or processes that may be 0
Steps = Annotated[int, Field(ge=0)]
# of a random generator, as NumPy takes it
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
# samples in one batch: a larger one fills the memory before the first step
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
# copies, micro-batches or views for one of something
Ratio = Annotated[int, Field(ge=1, le=10_000)]
# of one machine
Devices = Annotated[int, Field(ge=1, le=1024)]
# processes on one machine
Processes = Annotated[int, Field(ge=0, le=1024)]
# of optimizer steps. 1.0 is refused: it may mean one step or the whole run
StepsOrShare = Annotated[
    Steps | Annotated[float, Field(gt=0, lt=1)],
    Field(description="a whole number of steps, or a share of the run between 0 and 1"),
]
# of a whole: of a run, of a batch, of a set
Share = Annotated[float, Field(ge=0, le=1)]
# of dropout, of data held out, of momentum: a share of 1 would leave nothing
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
# factors that may not be 0, and factors that may
Scale = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


def steps_of(value: float, total: int) -> int:
    """A number of steps as it is; a share below 1 as steps of a run of `total`, at least one."""
    return int(value) if isinstance(value, int) or not value else max(round(value * total), 1)
