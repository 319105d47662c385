"""Progressively balanced sampling. Kang et al., Decoupling Representation and Classifier for
Long-Tailed Recognition, ICLR 2020, arXiv 1910.09217."""

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from datamodules.class_orders import ClassPasses, progressive_shares, sizes_of, whole_counts
from datamodules.samplers import Order
from methods.long_tail.resampling import Resampling


class ProgressivelyBalancedSampling(Resampling):
    """p_j(t) = (1 - a) n_j / Σ n + a / C: from the frequencies of the data to balanced classes.

    The run is divided into T equal parts, numbered t = 0 … T-1. t is a function of the position in
    the run, so a resumed run continues where it stopped. Class counts are integers in every pass
    and exact on average.

    epochs: number T of parts, at least 2; null: the run's passes over the data, at least 10.
    ramp: share of balance: `t_over_last` a = t / (T-1) (authors' code) or `t_over_T` a = t / T
        (paper). With t_over_last the last part is balanced.
    """

    def __init__(
        self,
        epochs: Annotated[int, Field(ge=2)] | None = None,
        ramp: Literal["t_over_last", "t_over_T"] = "t_over_last",
        task: str | None = None,
    ):
        self.epochs = epochs
        self.ramp = ramp
        self.task = task

    def share(self, t: int, epochs: int) -> float:
        """a in part t of T."""
        return t / (epochs - 1 if self.ramp == "t_over_last" else epochs)

    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        sizes = sizes_of(labels)
        samples = int(sizes.sum())
        passes = math.ceil(total / samples)
        epochs = self.epochs or max(passes, 10)
        length = max(min(samples, total // epochs), 1)

        def counts(number: int, offset: float) -> Tensor:
            t = min(number * length * epochs // total, epochs - 1)
            return whole_counts(progressive_shares(sizes, self.share(t, epochs)), length, offset)

        return ClassPasses(labels, length, counts, seed, stream)
