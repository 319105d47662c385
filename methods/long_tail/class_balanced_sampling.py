"""Class-balanced sampling. Kang et al., Decoupling Representation and Classifier for Long-Tailed
Recognition, ICLR 2020, arXiv 1910.09217."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from datamodules.class_orders import ClassCycle, ClassDraws, power_shares, sizes_of
from datamodules.samplers import Order
from foundation.errors import UserError
from methods.long_tail.resampling import Resampling


class ClassBalancedSampling(Resampling):
    """p_j = 1/C, uniform within each class: q = 0 in p_j = n_j^q / Σ n^q.

    realisation: order of the samples: `cycle` through the classes (lower variance) or independent
        `draws`. `cycle`: all classes in shuffled order, repeatedly, each iterating over its own
        shuffled samples; `draws`: of a class, then of a sample.
    samples_per_class: consecutive samples of a class in the cycle, at least 1; 1 (authors' code of
        cRT: 4).
    """

    def __init__(
        self,
        realisation: Literal["cycle", "draws"] = "cycle",
        samples_per_class: Annotated[int, Field(ge=1)] = 1,
        task: str | None = None,
    ):
        if realisation == "draws" and samples_per_class > 1:
            raise UserError(
                f"methods.class_balanced_sampling.samples_per_class={samples_per_class}: "
                "independent draws have no consecutive samples of a class; use realisation=cycle"
            )
        self.realisation = realisation
        self.samples_per_class = samples_per_class
        self.task = task

    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        if self.realisation == "draws":
            return ClassDraws(labels, power_shares(sizes_of(labels), 0.0), seed, stream)
        return ClassCycle(labels, seed, stream, self.samples_per_class)
