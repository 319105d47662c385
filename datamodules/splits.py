"""Which samples are trained on, held out and labeled, and with which labels.

Pure functions of (targets, settings, seed). Each cut has its own seed, so that changing one does
not change the others:

    training data ─ long-tailed cut ─ validation part ─ pool ─┬─ unlabeled stream: the whole pool
                                                              └─ labels_per_class ─ label noise ─
                                                              labeled stream

The test part is never touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.label_counts import label_counts, total_label_counts
from foundation.errors import UserError
from foundation.randomness import generator

Profile = Literal["exp", "step"]


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """int64 [classes]: how often each label occurs in `labels` [N]; -1 (no label) is not
    counted."""
    return torch.bincount(labels[labels >= 0], minlength=classes)


def count_without_label(targets: Mapping[str, Tensor]) -> int:
    """Samples that have a label for no task. targets: int64 [N] by task."""
    return int(torch.stack([values < 0 for values in targets.values()]).all(0).sum())


def stable_order(labels: Tensor) -> Tensor:
    """int64 [M]: positions by label, equal labels in their order. NumPy sorts small integers by
    radix, several times as fast. labels: int64 [M], on the host."""
    values = labels.numpy()
    small = len(values) and abs(values).max() < 2**15
    return torch.from_numpy(np.argsort(values.astype(np.int16) if small else values, kind="stable"))


def class_members(labels: Tensor) -> list[Tensor]:
    """Positions of the samples of each class that occurs, by class. labels: int64 [M]."""
    order = stable_order(labels)
    order = order[labels[order] >= 0]
    return list(order.split(labels[order].unique_consecutive(return_counts=True)[1].tolist()))


def imbalanced_counts(available: Tensor, factor: float, profile: Profile = "exp") -> Tensor:
    """Samples per class of a long-tailed cut of a set with `available` [C] samples per class; class
    0 is the head.

        exp:   n_c = floor(n_max · factor^(-c / (C - 1)))
        step:  n_c = n_max in the first C // 2 classes, floor(n_max / factor) in the others

    computed in float64 (Cui et al. 2019, Cao et al. 2019). n_max is the largest head for which
    every class has enough samples: 5000 for CIFAR-10. The floor may give a class no sample; the
    caller decides what to do then.
    """
    if factor < 1:
        raise UserError(
            f"data.imbalance_factor={factor:g}: give n_max / n_min, a number of at least 1"
        )
    classes = len(available)
    index = np.arange(classes, dtype=np.float64)
    if profile == "exp":
        share = np.float64(factor) ** (-index / max(classes - 1, 1))
    else:
        share = np.where(index < classes // 2, 1.0, 1.0 / np.float64(factor))
    # the rounding guard keeps n_max at 5000 where 5000 / share · share is 4999.999…
    head = np.floor((available.numpy() / share).min() + 1e-9)
    return torch.from_numpy(np.floor(head * share + 1e-9).astype(np.int64))


def take_per_class(labels: Tensor, counts: Tensor, source: torch.Generator) -> Tensor:
    """Sorted positions of `counts[c]` random samples of each class c, none of them with label
    -1."""
    order = torch.randperm(len(labels), generator=source)
    order = order[labels[order] >= 0]
    order = order[stable_order(labels[order])]
    members = order.split(class_counts(labels, len(counts)).tolist())
    chosen = [some[:count] for some, count in zip(members, counts.tolist(), strict=True)]
    return torch.cat(chosen).sort().values


def take_per_class_legacy(labels: Tensor, counts: Tensor) -> Tensor:
    """As `take_per_class`, with the subset of LDAM-DRW's code.

    NumPy's legacy generator, seeded with 0, shuffles the indices class by class in increasing
    order.
    """
    shuffler = np.random.RandomState(0)
    chosen = []
    by_class = stable_order(labels).numpy()
    edges = np.searchsorted(labels.numpy()[by_class], np.arange(len(counts) + 1))
    for label, count in enumerate(counts.tolist()):
        index = by_class[edges[label] : edges[label + 1]]
        shuffler.shuffle(index)
        chosen.append(index[:count])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def validation_counts(available: Tensor, fraction: float) -> Tensor:
    """Samples per class to hold out: the fraction, at least one, but never the only sample of a
    class."""
    if fraction <= 0:
        return torch.zeros_like(available)
    wanted = (available * fraction).round().long().clamp_min(1)
    return torch.minimum(wanted, (available - 1).clamp_min(0))


def flip_labels(labels: Tensor, share: float, classes: int, source: torch.Generator) -> Tensor:
    """Symmetric label noise: replace round(share · N) random labels by another class, drawn
    uniformly.

    The true class is never drawn, so `share` is the share of wrong labels. Labels of -1 are kept.
    """
    noisy = labels.clone()
    known = (labels >= 0).nonzero().flatten()
    hit = known[torch.randperm(len(known), generator=source)[: round(share * len(known))]]
    shift = torch.randint(1, max(classes, 2), (len(hit),), generator=source)
    noisy[hit] = (labels[hit] + shift) % classes
    return noisy


@dataclass(frozen=True)
class SplitSettings:
    """The settings of the cuts; `StreamDataModule` documents each."""

    labels_per_class: int | None = None
    labels: int | None = None
    imbalance_factor: float | None = None
    imbalance: Profile = "exp"
    imbalance_subset: Literal["seeded", "legacy"] = "seeded"
    label_noise: float = 0.0
    val_fraction: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class TrainingSplit:
    """The cuts.

    pool, val: rows of the training source.
    labeled: positions in the pool.
    targets: observed labels of the labeled samples by task, with label noise.
    truth: their true labels.
    """

    pool: Tensor
    val: Tensor
    labeled: Tensor
    targets: dict[str, Tensor]
    truth: dict[str, Tensor]


def check_classes(targets: dict[str, Tensor], classes: dict[str, list[str]]) -> None:
    """Raise UserError unless every task has two classes or more, each with a training sample."""
    for task, names in classes.items():
        if len(names) < 2:
            present = f"only the class {names[0]!r}" if names else "no class"
            raise UserError(
                f"data: task '{task}' has {present}; training needs at least two classes"
            )
        empty = (class_counts(targets[task], len(names)) == 0).nonzero().flatten().tolist()
        if empty:
            listed = ", ".join(f"'{names[c]}'" for c in empty[:5])
            rest = " …" if len(empty) > 5 else ""
            raise UserError(f"data: no training sample of class {listed}{rest} of task '{task}'")


def strata(
    targets: Mapping[str, Tensor], classes: Mapping[str, list[str]]
) -> tuple[Tensor, list[str]]:
    """What cuts are stratified by: int64 [N], -1 without a label, and the names.

    They are the classes of the first task, and of every task that no sample has beside it, as of
    a further set with tasks of its own.
    """
    first, *others = classes
    labels = targets[first].clone()
    names = list(classes[first])
    for task in others:
        rows = targets[task] >= 0
        if rows.any() and not (labels[rows] >= 0).any():
            labels[rows] = targets[task][rows] + len(names)
            names += classes[task]
    return labels, names


def _long_tailed(labels: Tensor, names: Sequence[str], settings: SplitSettings) -> Tensor:
    """Rows that a long-tailed cut keeps; samples without a label are all kept."""
    factor = settings.imbalance_factor
    if factor is None:
        return torch.arange(len(labels))
    counts = imbalanced_counts(class_counts(labels, len(names)), factor, settings.imbalance)
    if counts.min() < 1:
        raise UserError(
            f"data.imbalance_factor={factor:g} leaves no training sample of class "
            f"'{names[int(counts.argmin())]}'; expected at most {int(counts.max())}, the number of "
            "samples of the head"
        )
    if settings.imbalance_subset == "legacy":
        kept = take_per_class_legacy(labels, counts)
    else:
        kept = take_per_class(labels, counts, generator(settings.seed, "split", "imbalance"))
    return torch.cat([kept, (labels < 0).nonzero().flatten()]).sort().values


def _with_noise(
    truth: dict[str, Tensor], classes: dict[str, list[str]], settings: SplitSettings
) -> dict[str, Tensor]:
    """The labels of all tasks with label noise, each task from its own seed."""
    observed = {}
    for name, values in truth.items():
        source = generator(settings.seed, "split", "noise", name)
        observed[name] = flip_labels(values, settings.label_noise, len(classes[name]), source)
    return observed


def _labeled(
    labels: Tensor, names: Sequence[str], labeled: Tensor, settings: SplitSettings
) -> Tensor:
    """Positions that keep their labels, of those in the pool. labels, names: strata. labeled: those
    that have a label of any task."""
    available = class_counts(labels, len(names))
    proportional = settings.imbalance_factor is not None
    if settings.labels_per_class is not None:
        counts = label_counts(available, settings.labels_per_class, proportional, names)
    elif settings.labels is not None:
        counts = total_label_counts(available, settings.labels, proportional, names)
    else:
        return labeled
    return take_per_class(labels, counts, generator(settings.seed, "split", "labels"))


def split_training(
    targets: dict[str, Tensor],
    classes: dict[str, list[str]],
    settings: SplitSettings,
    own_val: bool = False,
    listed: Tensor | None = None,
) -> TrainingSplit:
    """All cuts of a training source, stratified by the first task, see `strata`.

    own_val: the set has a validation part, nothing is held out.
    listed: rows that keep their labels, none of which is held out or cut away; None: by the
        settings.

    Raises UserError as the helpers above do.
    """
    check_classes(targets, classes)
    task = next(iter(classes))
    names = classes[task]
    seed = settings.seed
    kept = _long_tailed(targets[task], names, settings)
    labels, names = strata(targets, classes)
    held = torch.zeros(0, dtype=torch.int64)
    if not own_val:
        free = kept if listed is None else kept[~torch.isin(kept, listed)]
        counts = validation_counts(class_counts(labels[free], len(names)), settings.val_fraction)
        held = free[take_per_class(labels[free], counts, generator(seed, "split", "validation"))]
    staying = torch.ones(len(labels), dtype=torch.bool)
    staying[held] = False
    pool = kept[staying[kept]]
    known = torch.stack([values[pool] >= 0 for values in targets.values()]).any(0)
    labeled = _labeled(labels[pool], names, known.nonzero().flatten(), settings)
    if listed is not None:
        labeled = torch.isin(pool, listed).nonzero().flatten()
    truth = {name: values[pool[labeled]] for name, values in targets.items()}
    observed = _with_noise(truth, classes, settings)
    return TrainingSplit(pool, held, labeled, observed, truth)
