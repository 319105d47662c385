"""Which references are positives of an anchor, and how many are its negatives."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foundation import devices


@dataclass(frozen=True)
class Sides:
    """Labels of both sides, [B] of anchors and [R] of references, -1 for none. same: the references
    are the anchors, so that an anchor meets itself."""

    anchors: Tensor
    references: Tensor
    same: bool

    @classmethod
    def of(cls, labels: Tensor, references: Tensor | None = None) -> "Sides":
        if references is None:
            return cls(labels, labels, True)
        return cls(labels, references, False)


def count_labeled(labels: Tensor) -> Tensor | int:
    """How many labels are known, at least 1."""
    if devices.readable(labels):
        return max(int((labels.numpy() >= 0).sum()), 1)
    return (labels >= 0).sum().clamp_min(1)


def count_pairs(labels: Tensor, references: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many positive and how many negative pairs anchors and references make, ordered, int64
    scalars, at least 1. references: labels [R], -1 for none; None: those of the anchors."""
    others = labels if references is None else references
    ordered = others.sort().values
    below = torch.searchsorted(ordered, labels)
    same_class = torch.searchsorted(ordered, labels, right=True) - below
    labeled = labels >= 0
    same_class = (same_class * labeled).sum()
    in_all = labeled.sum() * (others >= 0).sum()
    itself = labeled.sum() if references is None else 0
    return (same_class - itself).clamp_min(1), (in_all - same_class).clamp_min(1)


class Members:
    """The references of each anchor's class.

    On the CPU they are found by sorting labels once, not by comparing all with all; in NumPy, whose
    calls on a few numbers take a tenth of torch's. On a device labels are compared block by block,
    since to know the size of the largest class the host would have to wait.

    complete: whether every label is known to be there; False where the host would have to wait.
    """

    def __init__(self, sides: Sides):
        self.sides = sides
        self.complete = False
        self.labeled: Tensor | int  # references with a label
        if devices.readable(sides.references):
            self.sort(sides.anchors.numpy(), sides.references.numpy())
        else:
            self.labeled = (sides.references >= 0).sum()

    def sort(self, anchors: np.ndarray, references: np.ndarray) -> None:
        order = references.argsort(kind="stable")
        ordered = references[order]
        first_label = ordered[0] if len(ordered) else 0
        if not self.sides.same and len(anchors):
            first_label = min(first_label, anchors.min())
        self.complete = bool(first_label >= 0)
        self.labeled = len(ordered) - int(ordered.searchsorted(0))

        # an anchor's class is a range of the order
        start = ordered.searchsorted(anchors)
        count = ordered.searchsorted(anchors, side="right") - start
        if not self.complete:
            count[anchors < 0] = 0
        place = np.arange(max(count.max(initial=0), 1))
        # rows of smaller classes are filled up with what follows in the order, from its end round
        # to its start, so that no reference stands twice in a row
        self.index = order[(start[:, None] + place) % max(len(order), 1)]
        self.same_class = place < count[:, None]
        self.valid = self.same_class
        if self.sides.same:
            self.valid = self.same_class & (self.index != np.arange(len(anchors))[:, None])
        self.negative_count = self.labeled - count
        if not self.complete:
            self.negative_count[anchors < 0] = 0

    def of(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """index, valid: [b, K], which references are positives of the anchors `rows`, where valid;
        an anchor is not its own. negative_count: [b]."""
        anchors = self.sides.anchors[rows]
        if devices.readable(anchors):
            index = torch.from_numpy(self.index[rows])
            valid = torch.from_numpy(self.valid[rows])
            return index, valid, torch.from_numpy(self.negative_count[rows])
        valid = (anchors[:, None] == self.sides.references) & (anchors >= 0)[:, None]
        index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
        negative_count = torch.where(anchors >= 0, self.labeled - valid.sum(1), 0)
        if self.sides.same:
            valid &= index != torch.arange(rows.start, rows.stop, device=index.device)[:, None]
        return index, valid, negative_count
