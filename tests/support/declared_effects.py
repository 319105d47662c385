"""Effects of what a method declares and no point of it makes: the order of samples, an average."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.samplers import ShuffledPasses
from recipes.contract import Declaration
from tests.support.lab import Outcome


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, where nan equals nan."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


class Rows(pl.Callback):
    """The samples that training saw, by stream."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, recipe: Any, batch: Any, number: int) -> None:
        for stream, content in batch.items():
            if isinstance(content, Mapping):
                self.seen.setdefault(stream, []).append(content["index"])


def orders_samples(outcome: Outcome, declaration: Declaration, rows: Rows) -> bool:
    """Whether some stream it orders came otherwise than in shuffled passes."""
    data = outcome.trainer.datamodule  # type: ignore[attr-defined]
    for stream in declaration.orders:
        seen = torch.cat(rows.seen[stream])
        part = data.part_of(stream)
        usual = ShuffledPasses(len(part), data.seed, stream).take(0, len(seen))
        if not torch.equal(seen, part.fetch(usual)["index"]):
            return True
    return False


def averages(outcome: Outcome) -> bool:
    """Whether an averaged network moved, and is another than the trained one."""
    averaged = {n: v for n, v in outcome.state.items() if n.startswith("teacher.network.")}
    moved = [n for n, v in averaged.items() if not same(v, outcome.start[n])]
    return any(not same(averaged[n], outcome.state[n.removeprefix("teacher.")]) for n in moved)
