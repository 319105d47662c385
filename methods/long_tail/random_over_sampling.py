"""Random over-sampling. Studied by Buda, Maki and Mazurowski, A systematic study of the class
imbalance problem in convolutional neural networks, Neural Networks 106, 2018, arXiv 1710.05381."""

from torch import Tensor

from datamodules.class_orders import ClassPasses, sizes_of
from datamodules.samplers import Order
from methods.long_tail.resampling import Resampling


class RandomOverSampling(Resampling):
    """p_j = 1/C: a pass has C · n_max samples, n_max of each class, each sample floor or ceiling of
    n_max/n_c times.

    The remainder after whole rounds through a class is drawn again in every pass, without
    replacement (imbalanced-learn: with).
    """

    def __init__(self, task: str | None = None):
        self.task = task

    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        sizes = sizes_of(labels)
        counts = sizes.max().expand(len(sizes))
        return ClassPasses(labels, int(counts.sum()), lambda number, offset: counts, seed, stream)
