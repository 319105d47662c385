"""Which samples are in the batch of a step: pure functions of the step, so that a run can resume at
any step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from foundation.errors import UserError, nearest
from foundation.randomness import generator

BLOCK = 16  # micro-batches cut at once, which saves small tensor calls
# What a sampler asks a dataset for: positions as arrays. A tensor would go to a worker process in
# shared memory, over a connection that breaks with a traceback where the worker is killed.
Request = Mapping[str, int | np.ndarray]


class Order(Protocol):
    """An endless sequence of positions in a stream with random access."""

    def take(self, start: int, stop: int) -> Tensor:
        """int64 [stop - start]: the elements [start, stop), a pure function of the arguments."""
        ...


class MakeOrder(Protocol):
    """Makes the order of a stream's samples, once the data has been read."""

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> Order:
        """targets: int64 [M] by task, of the samples of the stream.
        batch_size: global samples of a micro-batch.
        total: micro-batches of the run.
        seed, stream: part of the key of every draw.
        """
        ...


@runtime_checkable
class ChecksBatch(Protocol):
    """An order that works with some sizes of a batch only."""

    def check_batch(self, batch_size: int) -> None:
        """Raise UserError for one of the others; before data are read."""
        ...


class Blocks(ABC):
    """An order cut into blocks of `length` positions; the last block read is cached."""

    length: int

    def __init__(self) -> None:
        self._number = -1
        self._block = torch.empty(0, dtype=torch.int64)

    @abstractmethod
    def block(self, number: int) -> Tensor:
        """int64 [length]: a pure function of the number."""

    def take(self, start: int, stop: int) -> Tensor:
        pieces = []
        while start < stop:
            number, offset = divmod(start, self.length)
            if number != self._number:
                self._block = self.block(number)
                self._number = number
            piece = self._block[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        if not pieces:
            return torch.empty(0, dtype=torch.int64)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def class_labels(targets: Mapping[str, Tensor], task: str | None, key: str) -> Tensor:
    """int64 [M]: the targets of the task whose classes an order uses, None for the first. key: of
    the method, for the message about a task that does not exist."""
    name = next(iter(targets)) if task is None else task
    if name not in targets:
        raise UserError(
            f"methods.{key}.task={name}: there is no such task; {nearest(name, targets)}"
        )
    return targets[name]


def some_of(members: Tensor, count: int, source: torch.Generator) -> Tensor:
    """`count` of the members, drawn without replacement; fewer repeat all of them, shuffled."""
    order = torch.randperm(len(members), generator=source)
    repeats = -(-count // len(members))
    return members[order.repeat(repeats)[:count]]


class ShuffledPasses(Blocks):
    """Endless passes over `size` samples; the order of pass p is drawn from (seed, "order", stream,
    p).

    40 labels with a batch of 64 are one pass and 24 samples of the next.
    """

    def __init__(self, size: int, seed: int, stream: str):
        if size < 1:
            raise ValueError(f"stream '{stream}' has no samples")
        super().__init__()
        self.length = size
        self.seed = seed
        self.stream = stream

    def block(self, number: int) -> Tensor:
        source = generator(self.seed, "order", self.stream, number)
        return torch.randperm(self.length, generator=source)


class LiveOrder:
    """An order that changes while the run trains: `newest` gives the present one. Positions count
    from the begin of the run in each of them.

    The loader reads no further than to the next survey of the method (`StepSampler.stretches`), so
    every batch is of the order that was the newest when its step began, with workers as well.
    """

    def __init__(self, newest: Callable[[], Order]):
        self.newest = newest

    def take(self, start: int, stop: int) -> Tensor:
        return self.newest().take(start, stop)


class StepSampler(Sampler):
    """For each micro-batch s of a run: {"position": s, stream: positions in the stream} for one
    rank.

    orders: the sequence of each stream.
    batch_sizes: *global* samples of each stream in a micro-batch; rank r gets the r-th of `world`
        equal contiguous parts.
    total: micro-batches of the whole run.
    start: called at the begin of each iteration, returns the first micro-batch.
    horizon: the micro-batch up to which the orders are known at micro-batch s; see `stretches`.
    """

    def __init__(
        self,
        orders: Mapping[str, Order],
        batch_sizes: Mapping[str, int],
        total: int,
        rank: int = 0,
        world: int = 1,
        start: Callable[[], int] = lambda: 0,
        horizon: Callable[[int], int] | None = None,
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
        self.horizon = horizon or (lambda step: total)
        self.stretch: tuple[int, int] | None = None  # the micro-batches that are read; None: all

    def stretches(self) -> Iterator[None]:
        """Set the sampler to one stretch of the run after the other, in each of which all orders
        are known. The next one may only be asked for when all steps of the last are done."""
        step = self.start()
        while step < self.total:
            stop = min(self.horizon(step), self.total)
            self.stretch = (step, stop)
            yield
            step = stop
        self.stretch = None

    def block(self, step: int, steps: int) -> Iterator[Request]:
        """What this rank reads in the micro-batches [step, step + steps)."""
        rows: dict[str, np.ndarray] = {}
        for stream, order in self.orders.items():
            whole = self.batch_sizes[stream]
            taken = order.take(step * whole, (step + steps) * whole).view(steps, self.world, -1)
            rows[stream] = taken[:, self.rank].numpy()
        for offset in range(steps):
            yield {
                "position": step + offset,
                **{stream: taken[offset] for stream, taken in rows.items()},
            }

    def __iter__(self) -> Iterator[Request]:
        start, stop = self.stretch or (self.start(), self.total)
        for step in range(start, stop, BLOCK):
            yield from self.block(step, min(BLOCK, stop - step))

    def __len__(self) -> int:
        return self.total


class ShareSampler(Sampler):
    """Every sample once over all ranks, in batches of at most `batch_size` per rank, without
    padding.

    Rank r has a contiguous share. Shares differ by at most one sample, and all ranks have equally
    many batches, so collectives in an evaluation loop do not hang: with fewer samples than ranks
    some ranks have an empty one.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1):
        share = torch.arange(size).tensor_split(world)[rank]
        largest = -(-size // world)
        batches = max(-(-largest // batch_size), 1)
        self.batches = np.array_split(share.numpy(), batches)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
