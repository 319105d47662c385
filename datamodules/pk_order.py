"""Batches of P classes with K samples each, for losses on pairs: a pure function of the
position."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.samplers import Blocks, class_labels, some_of
from foundation.errors import UserError
from foundation.randomness import generator

Classes = Literal["uniform", "proportional"]


class BlockWalk:
    """An endless walk over `size` elements in blocks of `block` distinct ones, each element equally
    often.

    It consists of rounds of size / gcd(size, block) blocks. A round is a sequence of whole shuffled
    passes; where a pass starts within a block, elements that are already in that block are moved
    behind it. A round is drawn from (key, its number) alone, so every block can be computed without
    those before. With fewer elements than a block needs, a block repeats all of them, shuffled.
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
            return some_of(torch.arange(self.size), self.block, generator(*self.key, number))
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


class PKOrder(Blocks):
    """Endless batches of P = batch_size / K classes with K samples each.

    labels: int64 [M]; samples with -1 are skipped.
    per_class: K.
    classes: `uniform` walks over classes, and within a class over its samples, by `BlockWalk`s, so
        that classes, and the samples of a class, occur equally often. `proportional` draws P
        distinct classes per batch with the class frequencies.
    interleaved: False sorts a batch by class; True makes each of its K parts contain one sample of
        every class.
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
        super().__init__()
        self.per_class = per_class
        self.interleaved = interleaved
        self.key = key
        self.length = batch_size
        self.groups = batch_size // per_class
        known = (labels >= 0).nonzero().flatten()
        _, counts = torch.unique(labels[known], return_counts=True)
        self.members = known[labels[known].argsort(stable=True)].split(counts.tolist())
        self.samples = [
            BlockWalk(len(m), per_class, *key, "samples", c) for c, m in enumerate(self.members)
        ]
        self.classes: BlockWalk | None = None
        if classes == "uniform":
            self.classes = BlockWalk(len(counts), self.groups, *key, "classes")
        self.log_counts = counts.double().log()

    def block(self, number: int) -> Tensor:
        """int64 [batch_size]: positions of the samples of batch `number`."""
        if self.classes is not None:
            chosen = self.classes[number]
            # a pass has every class once, so a class has had as many turns as there were passes
            turns = (number * self.groups + torch.arange(self.groups)) // self.classes.size
        else:
            # Gumbel top-k: the largest of log n_c + noise are draws without replacement with
            # probabilities n_c / N
            noise = torch.rand(
                len(self.log_counts), generator=generator(*self.key, number), dtype=torch.float64
            )
            chosen = (self.log_counts - torch.log(-torch.log(noise))).topk(self.groups).indices
            turns = torch.full_like(chosen, number)
        pairs = zip(chosen.tolist(), turns.tolist(), strict=True)
        rows = torch.stack([self.members[c][self.samples[c][turn]] for c, turn in pairs])
        return (rows.T if self.interleaved else rows).flatten()


@dataclass(frozen=True)
class MakePKOrder:
    """Makes the order of a stream.

    task: the task whose classes are used, None for the first.
    key: the method's key, for messages.

    Raises UserError if the batch size is no multiple of K or the data has too few classes.
    """

    per_class: int
    classes: Classes = "uniform"
    interleaved: bool = False
    task: str | None = None
    key: str = "pk"

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> PKOrder:
        labels = class_labels(targets, self.task, self.key)
        self.check_batch(batch_size)
        k = self.per_class
        there = len(labels[labels >= 0].unique())
        if batch_size // k > there:
            raise UserError(
                f"data.batch_size={batch_size}: needs {batch_size // k} classes per batch with "
                f"{self.setting}, the labeled data has {there}; expected at most "
                f"data.batch_size={there * k}"
            )
        return PKOrder(labels, batch_size, k, self.classes, self.interleaved, seed, "order", stream)

    @property
    def setting(self) -> str:
        return f"methods.{self.key}.samples_per_class={self.per_class}"

    def check_batch(self, batch_size: int) -> None:
        k = self.per_class
        if batch_size % k:
            below = batch_size - batch_size % k
            near = [n for n in (below, below + k) if n]
            raise UserError(
                f"data.batch_size={batch_size}: is no multiple of {self.setting}; "
                f"expected e.g. {' or '.join(map(str, near))}"
            )
