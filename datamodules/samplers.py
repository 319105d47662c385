"""Which samples make the batch of a step: pure functions of the step, so that resuming is starting
there."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler

from foundation.randomness import generator

BLOCK = 16  # micro-batches cut at once: the cost of a few small tensor calls is shared


class Order(Protocol):
    """An endless sequence of positions in a stream, readable anywhere."""

    def take(self, start: int, stop: int) -> Tensor:
        """int64 [stop - start]: the elements [start, stop); equal arguments give equal elements."""
        ...


class MakeOrder(Protocol):
    """Makes the order in which a stream's samples come, once the data has been read."""

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        """targets: int64 [M] by task, of the samples of the stream. batch_size: global samples of a
        micro-batch. total: micro-batches of the run. seed, stream: key every draw."""
        ...


class ShuffledPasses:
    """Endless passes over `size` samples, pass p in an order of its own drawn from (seed, "order",
    stream, p).

    40 labels with a batch of 64 are one pass and 24 samples of the next.
    """

    def __init__(self, size: int, seed: int, stream: str):
        if size < 1:
            raise ValueError(f"stream '{stream}' has no samples")
        self.size = size
        self.seed = seed
        self.stream = stream
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def order(self, number: int) -> Tensor:
        """The permutation of pass `number`; the last one asked for is kept."""
        if number != self._pass:
            source = generator(self.seed, "order", self.stream, number)
            self._pass = number
            self._order = torch.randperm(self.size, generator=source)
        return self._order

    def take(self, start: int, stop: int) -> Tensor:
        pieces = []
        while start < stop:
            number, offset = divmod(start, self.size)
            piece = self.order(number)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class StepSampler(Sampler):
    """For each micro-batch s of a run: {"position": s, stream: positions in the stream} for one
    rank.

    orders: the sequence of each stream. batch_sizes: *global* samples of each stream in a
    micro-batch; rank r gets the r-th of `world` equal contiguous parts. total: micro-batches of the
    whole run. start: called at each iteration, the micro-batch to begin with.
    """

    def __init__(
        self,
        orders: Mapping[str, Order],
        batch_sizes: Mapping[str, int],
        total: int,
        rank: int = 0,
        world: int = 1,
        start: Callable[[], int] = lambda: 0,
    ):
        for stream, size in batch_sizes.items():
            if size % world:
                raise ValueError(
                    f"{size} samples of stream '{stream}' do not divide by {world} ranks"
                )
        self.orders = dict(orders)
        self.batch_sizes = dict(batch_sizes)
        self.total = total
        self.rank = rank
        self.world = world
        self.start = start

    def block(self, step: int, steps: int) -> Iterator[dict[str, int | Tensor]]:
        """What this rank reads in `steps` micro-batches from `step` on."""
        rows: dict[str, tuple[Tensor, ...]] = {}
        for stream, order in self.orders.items():
            whole = self.batch_sizes[stream]
            taken = order.take(step * whole, (step + steps) * whole).view(steps, self.world, -1)
            rows[stream] = taken[:, self.rank].unbind()
        for offset in range(steps):
            yield {
                "position": step + offset,
                **{stream: taken[offset] for stream, taken in rows.items()},
            }

    def __iter__(self) -> Iterator[dict[str, int | Tensor]]:
        for step in range(self.start(), self.total, BLOCK):
            yield from self.block(step, min(BLOCK, self.total - step))

    def __len__(self) -> int:
        return self.total


class ShareSampler(Sampler):
    """Every sample once over all ranks, in batches of at most `batch_size` a rank, without padding.

    Rank r holds a contiguous share; shares differ by one sample at most, and all ranks have equally
    many batches unless there are fewer samples than that, so collectives in an evaluation loop
    meet.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1):
        share = torch.arange(size).tensor_split(world)[rank]
        largest = -(-size // world)
        batches = max(-(-largest // batch_size), 1)
        self.batches = [batch for batch in share.tensor_split(batches) if len(batch)]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
