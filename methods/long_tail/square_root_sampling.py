"""Square-root sampling. Compared in Kang et al., Decoupling Representation and Classifier for
Long-Tailed Recognition, ICLR 2020, arXiv 1910.09217."""

from typing import Literal

from torch import Tensor

from datamodules.class_orders import ClassDraws, ClassPasses, power_shares, sizes_of, whole_counts
from datamodules.samplers import Order
from methods.long_tail.resampling import Resampling


class SquareRootSampling(Resampling):
    """p_j = √n_j / Σ_k √n_k, uniform within each class: halfway between the data's distribution and
    a balanced one.

    The remaining prior is not that of the data, so no other method may correct it.

    realisation: order of the samples: `cycle`, rounded class counts (lower variance), or
        independent `draws`. `cycle`: passes of n samples with p_j · n of each class, rounded to
        integers, in which each class iterates over its own shuffled samples.
    """

    def __init__(self, realisation: Literal["cycle", "draws"] = "cycle", task: str | None = None):
        self.realisation = realisation
        self.task = task

    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        sizes = sizes_of(labels)
        shares = power_shares(sizes, 0.5)
        length = int(sizes.sum())
        if self.realisation == "draws":
            return ClassDraws(labels, shares, seed, stream)
        counts = whole_counts(shares, length)
        return ClassPasses(labels, length, lambda number, offset: counts, seed, stream, "on")
