"""Random under-sampling. Studied by Buda, Maki and Mazurowski, A systematic study of the class
imbalance problem in convolutional neural networks, Neural Networks 106, 2018, arXiv 1710.05381."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from datamodules.class_orders import ClassPasses, sizes_of
from datamodules.samplers import Order
from methods.long_tail.resampling import Resampling


class RandomUnderSampling(Resampling):
    """A pass has min(n_c, m) samples of each class, without replacement; with m = n_min, p_j = 1/C.

    cap: largest number m of samples per class, at least 1; null: n_min. A larger m balances only in
        part.
    redraw: draw other samples in every pass (ours); false: the same ones for the whole run
        (classical). The classical form never uses the other samples.
    """

    def __init__(
        self,
        cap: Annotated[int, Field(ge=1)] | None = None,
        redraw: bool = True,
        task: str | None = None,
    ):
        self.cap = cap
        self.redraw = redraw
        self.task = task

    def order(self, labels: Tensor, total: int, seed: int, stream: str) -> Order:
        sizes = sizes_of(labels)
        counts = sizes.clamp_max(self.cap or int(sizes.min()))
        walk: Literal["fresh", "same"] = "fresh" if self.redraw else "same"
        return ClassPasses(
            labels, int(counts.sum()), lambda number, offset: counts, seed, stream, walk
        )
