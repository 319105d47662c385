"""The base of methods that set the order of the labeled samples."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from datamodules.samplers import Order
from foundation.errors import UserError, nearest
from recipes.contract import Declaration, Method


class Resampling(Method):
    """Base: the method sets the class distribution of the labeled stream; other streams do not
    change.

    Run lengths are steps, so over-sampling does not lengthen a run, and methods compare at equal
    numbers of steps.

    task: task whose classes count; null: the first.
    """

    declaration = Declaration(slots=("sampler", "prior_correction"), tags=("resamples",))
    task: str | None = None

    def declare(self) -> Declaration:
        known = self.declaration
        return Declaration(slots=known.slots, tags=known.tags, orders={"labeled": self._make})

    def _make(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        task = self.task or next(iter(targets))
        if task not in targets:
            raise UserError(
                f"methods.{self.key}.task: the data has no task '{task}'; {nearest(task, targets)}"
            )
        return self.order(targets[task], batch_size * total, seed, stream)

    @abstractmethod
    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        """The order of the samples with these labels [M] (-1: none) in a run of `total` samples."""
