"""A method may say in which order the samples of a stream come."""

import torch

from datamodules.datamodule import StreamDataModule
from datamodules.sources import Digits
from datamodules.views.image import Raw, Weak


class Backwards:
    """The last sample first, for ever."""

    def __init__(self, targets, batch_size, total, seed, stream):
        self.size, self.told = len(targets["label"]), (batch_size, total, seed, stream)

    def take(self, start, stop):
        return self.size - 1 - torch.arange(start, stop) % self.size


def test_the_order_asked_for_is_the_order_that_comes():
    made = []

    def order(*args):
        made.append(Backwards(*args))
        return made[0]

    data = StreamDataModule(
        Digits(), batch_size=4, seed=3, views={"raw": Raw(), "weak": Weak(flip=False)}
    )
    data.request({"labeled"}, {"labeled": order})
    data.place(rank=0, world=1, total=5)
    data.setup()
    batches = list(data.train_dataloader())
    size = data.sizes["labeled"]
    index = torch.cat([batch["labeled"]["index"] for batch in batches])
    assert torch.equal(index, data.parts["labeled"].index.flip(0)[:20]) and size > 20
    assert made[0].told == (4, 5, 3, "labeled")
