"""Who is a pair: which references are of an anchor's class."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation import devices


@dataclass(frozen=True)
class Sides:
    """labels: [B] of anchors and [R] of references, -1 for none. itself: the references are the
    anchors."""

    anchors: Tensor
    references: Tensor
    itself: bool

    @classmethod
    def of(cls, labels: Tensor, references: Tensor | None = None) -> "Sides":
        return cls(labels, labels if references is None else references, references is None)


def labelled(labels: Tensor) -> Tensor | int:
    """How many labels are known, at least 1."""
    if devices.readable(labels):
        return max(int((labels.numpy() >= 0).sum()), 1)
    return (labels >= 0).sum().clamp_min(1)


class Members:
    """Which references are of an anchor's class: found by sorting labels, not by comparing all with
    all; by NumPy, since it is about few numbers, for which a call of torch's takes ten times as
    long."""

    def __init__(self, sides: Sides):
        self.sides, references = sides, sides.references
        # whether every label is known; also where a device would have to wait for the answer
        self.complete = False
        if not devices.readable(references):
            self.known: Tensor | int = (references >= 0).sum()
            return
        anchors, labels = sides.anchors.numpy(), references.numpy()
        order = labels.argsort(kind="stable")
        ordered = labels[order]
        start = ordered.searchsorted(anchors)
        self.number = ordered.searchsorted(anchors, side="right") - start
        least = min(
            ordered[0] if len(ordered) else 0,
            0 if sides.itself or not len(anchors) else anchors.min(),
        )
        self.complete, self.known = bool(least >= 0), len(ordered) - int(ordered.searchsorted(0))
        if not self.complete:
            self.number[anchors < 0] = 0
        place = np.arange(max(self.number.max(initial=0), 1))
        # beyond the class round to the start of the order, so that no reference stands twice in a
        # row
        self.index = order[(start[:, None] + place) % max(len(order), 1)]
        self.same = place < self.number[:, None]
        self.valid = (
            self.same & (self.index != np.arange(len(anchors))[:, None])
            if sides.itself
            else self.same
        )
        self.negatives = self.known - self.number
        if not self.complete:
            self.negatives[anchors < 0] = 0

    def of(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """index, valid: [b, K] of the positives, an anchor itself is none. negatives: [b], how
        many."""
        anchors = self.sides.anchors[rows]
        if devices.readable(anchors):
            return tuple(
                map(torch.from_numpy, (self.index[rows], self.valid[rows], self.negatives[rows]))
            )
        valid = (anchors[:, None] == self.sides.references) & (anchors >= 0)[:, None]
        index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
        negatives = torch.where(anchors >= 0, self.known - valid.sum(1), 0)
        if self.sides.itself:
            valid &= index != torch.arange(rows.start, rows.stop, device=index.device)[:, None]
        return index, valid, negatives
