"""Batches of P classes with K samples each, as a pure function of the position: what losses on
pairs learn from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foundation.errors import UserError, nearest
from foundation.randomness import generator

Classes = Literal["uniform", "proportional"]


class BlockWalk:
    """An endless walk over `size` elements in blocks of `block` different ones, each element
    equally often.

    It goes in rounds of size / gcd(size, block) blocks. In a round whole shuffled passes follow
    each other; elements that already stand in the block which a pass finds begun are put behind it.
    A round is drawn from (key, its number) alone, so that every block can be had without those
    before. Fewer elements than a block holds: all of them, shuffled, and again from the start.
    """

    def __init__(self, size: int, block: int, *key: object):
        self.size = size
        self.block = block
        self.key = key
        self.blocks = size // math.gcd(size, block)
        self._number = -1
        self._round = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, number: int) -> Tensor:
        """int64 [block]: the elements of block `number`."""
        if self.size < self.block:
            order = torch.randperm(self.size, generator=generator(*self.key, number))
            return order.repeat(-(-self.block // self.size))[: self.block]
        rounds, place = divmod(number, self.blocks)
        if rounds != self._number:
            self._number = rounds
            self._round = self._walk(rounds)
        return self._round[place]

    def _walk(self, number: int) -> Tensor:
        source = generator(*self.key, number)
        walk = torch.empty(0, dtype=torch.int64)
        while len(walk) < self.blocks * self.block:
            order = torch.randperm(self.size, generator=source)
            begun = len(walk) % self.block
            if begun:
                free = order[~torch.isin(order, walk[-begun:])][: self.block - begun]
                order = torch.cat([free, order[~torch.isin(order, free)]])
            walk = torch.cat([walk, order])
        return walk.view(-1, self.block)


class PKOrder:
    """Endless batches of P = batch_size / K classes with K samples each.

    `uniform`: classes by a `BlockWalk`, and within a class its samples by another, so that classes,
    and the samples of a class, come equally often. `proportional`: P different classes a batch,
    drawn with the class frequencies. Samples stand class by class; interleaved, every K-th part of
    the batch holds one of each class.

    labels: int64 [M], -1 in no batch.
    """

    def __init__(
        self,
        labels: Tensor,
        batch_size: int,
        per_class: int,
        classes: Classes,
        interleaved: bool,
        *key: object,
    ):
        self.per_class = per_class
        self.interleaved = interleaved
        self.key = key
        self.batch_size = batch_size
        self.groups = batch_size // per_class
        known = (labels >= 0).nonzero().flatten()
        _, counts = torch.unique(labels[known], return_counts=True)
        self.members = known[labels[known].argsort(stable=True)].split(counts.tolist())
        self.samples = [
            BlockWalk(len(m), per_class, *key, "samples", c) for c, m in enumerate(self.members)
        ]
        self.classes = (
            BlockWalk(len(counts), self.groups, *key, "classes") if classes == "uniform" else None
        )
        self.log_counts = counts.double().log()

    def batch(self, number: int) -> Tensor:
        """int64 [batch_size]: positions of the samples of batch `number`."""
        if self.classes is not None:
            chosen = self.classes[number]
            # every class once a pass: its earlier turns are the passes before this one
            turns = (number * self.groups + torch.arange(self.groups)) // self.classes.size
        else:
            # the largest of log n_c plus Gumbel noise are draws without replacement with
            # probabilities n_c / N
            noise = torch.rand(
                len(self.log_counts), generator=generator(*self.key, number), dtype=torch.float64
            )
            chosen = (self.log_counts - torch.log(-torch.log(noise))).topk(self.groups).indices
            turns = torch.full_like(chosen, number)
        pairs = zip(chosen.tolist(), turns.tolist(), strict=True)
        rows = torch.stack([self.members[c][self.samples[c][turn]] for c, turn in pairs])
        return (rows.T if self.interleaved else rows).flatten()

    def take(self, start: int, stop: int) -> Tensor:
        first, last = start // self.batch_size, -(-stop // self.batch_size)
        if first == last:
            return torch.empty(0, dtype=torch.int64)
        taken = torch.cat([self.batch(number) for number in range(first, last)])
        return taken[start - first * self.batch_size :][: stop - start]


@dataclass(frozen=True)
class MakePKOrder:
    """Makes the order for a stream. task: whose classes; None: the first. key: the method's, for
    messages.

    Raises UserError where the batch does not divide into K or the data has too few classes for it.
    """

    per_class: int
    classes: Classes = "uniform"
    interleaved: bool = False
    task: str | None = None
    key: str = "pk"

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> PKOrder:
        task = next(iter(targets)) if self.task is None else self.task
        if task not in targets:
            raise UserError(
                f"methods.{self.key}.task={task}: there is no such task; {nearest(task, targets)}"
            )
        labels = targets[task]
        k = self.per_class
        setting = f"methods.{self.key}.samples_per_class={k}"
        if batch_size % k:
            near = [n for n in (batch_size - batch_size % k, batch_size - batch_size % k + k) if n]
            raise UserError(
                f"data.batch_size={batch_size}: is no multiple of {setting}; "
                f"expected e.g. {' or '.join(map(str, near))}"
            )
        there = len(labels[labels >= 0].unique())
        if batch_size // k > there:
            raise UserError(
                f"data.batch_size={batch_size}: wants {batch_size // k} classes a batch with "
                f"{setting}, "
                f"the labeled data has {there}; expected at most data.batch_size={there * k}"
            )
        return PKOrder(labels, batch_size, k, self.classes, self.interleaved, seed, "order", stream)
