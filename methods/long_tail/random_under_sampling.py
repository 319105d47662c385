"""Random under-sampling. Studied by Buda, Maki and Mazurowski, A systematic study of the class
imbalance problem in convolutional neural networks, Neural Networks 106, 2018, arXiv 1710.05381."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from datamodules.class_orders import ClassPasses, sizes_of
from datamodules.samplers import Order
from methods.long_tail.resampling import Resampling


class RandomUnderSampling(Resampling):
    """A pass holds min(n_c, m) samples of each class, without replacement; m = n_min, so that p_j =
    1/C.

    cap: samples m of a class at most, at least 1; null: n_min. A larger one balances only in part.
    redraw: draw other samples in every pass (ours); false: the same ones for the whole run
        (classical). The classical form throws the rest of the data away.
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
