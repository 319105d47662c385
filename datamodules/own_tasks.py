"""Sets with tasks of their own beside the one that a run trains on: `data.sources.NAME` with
`tasks: own`.

Their samples join the training, validation and test samples of the first set. A sample has labels
of the tasks of its set and -1 for all others; the run has a head for every task.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from datamodules.checks import load_checked
from datamodules.further_sets import KEY, Further
from datamodules.joined import Joined, without_labels
from datamodules.picture_form import PictureForm
from datamodules.samplers import ShuffledPasses
from datamodules.source import ArraySource, DataInfo, Source, Splits
from datamodules.sources.bands import brought
from datamodules.sources.stored_texts import joined
from datamodules.sources.text import TextSource
from foundation.errors import UserError

BLOCK = 1000  # pictures that are resized at once
GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as in PIL
PARTS = ("train", "val", "test")

Classes = dict[str, list[str]]  # by task


def task_names(name: str, tasks: Sequence[str]) -> dict[str, str]:
    """What the tasks of a set are called in the run: as the set, or `SET_TASK` where it has
    several."""
    if len(tasks) == 1:
        return {tasks[0]: name}
    return {task: f"{name}_{task}" for task in tasks}


def joint_info(info: DataInfo, own: Mapping[str, DataInfo]) -> DataInfo:
    """Facts of all sets as of one. info: of the first. own: of the others by name. Raises UserError
    for a set that cannot join."""
    tasks = dict(info.tasks)
    for name, more in own.items():
        key = f"{KEY}.{name}"
        if more.kind != info.kind:
            problem = f"is a set of {more.kind}s"
            raise UserError(key, problem, f"expected {info.kind}s, as the first set")
        if info.disjoint or more.disjoint:
            which = "it" if more.disjoint else "the first set"
            problem = f"{which} has other classes in evaluation than in training"
            raise UserError(
                f"{key}.tasks=own", problem, "expected sets whose heads can be evaluated"
            )
        for task, called in task_names(name, list(more.tasks)).items():
            if called in tasks:
                problem = f"'{called}' is a task of another set already"
                raise UserError(key, problem, "give the set another name")
            tasks[called] = more.tasks[task]
    infos = [info, *own.values()]
    sizes = [each.train_size for each in infos]
    known = [size for size in sizes if size is not None]
    train_size = sum(known) if len(known) == len(sizes) else None
    unlabeled = sum(each.unlabeled for each in infos)
    return replace(info, tasks=tasks, train_size=train_size, unlabeled=unlabeled)


def check_streams(
    own: Mapping[str, Further], streams: Collection[str], orders: Collection[str]
) -> None:
    """Raise UserError for streams and orders of methods that know one task for each sample."""
    if not own:
        return
    key = f"{KEY}.{next(iter(own))}.tasks=own"
    if "unlabeled" in streams:
        problem = (
            "a method with unlabeled samples would guess labels of one set on pictures of another"
        )
        raise UserError(key, problem, "leave one out")
    if "labeled" in orders:
        problem = "a method orders the samples by the classes of one task, which others do not have"
        raise UserError(key, problem, "leave one out")


# -- reading ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Joint:
    """The parts of all sets as those of one. starts: where the training samples of each set begin,
    and the end. classes: of all tasks."""

    splits: Splits
    starts: list[int]
    classes: Classes


def join_sets(splits: Splits, info: DataInfo, own: Mapping[str, Further]) -> Joint:
    """The first set, and behind it the others. Raises UserError."""
    classes = dict(splits.train.classes)
    named = {task: task for task in classes}
    sets = [(splits, named)]
    for name, further in own.items():
        more = loaded(further, info)
        names = task_names(name, list(more.train.classes))
        classes |= {called: more.train.classes[task] for task, called in names.items()}
        sets.append((more, names))
    if any(each.roles for each, _ in sets):
        problem = "queries and a gallery belong to one set"
        raise UserError(f"{KEY}.{next(iter(own))}.tasks=own", problem, "leave their columns out")
    parts: dict[str, list[Source]] = {part: [] for part in PARTS}
    for each, names in sets:
        for part in PARTS:
            source = getattr(each, part)
            if source is not None:
                parts[part].append(with_tasks(source, names, classes))
    starts = [0]
    for source in parts["train"]:
        starts.append(starts[-1] + len(source))
    made = {part: in_a_row(sources) for part, sources in parts.items() if sources}
    return Joint(Splits(made["train"], made["test"], made.get("val")), starts, classes)


def loaded(further: Further, info: DataInfo) -> Splits:
    """The parts of a set, whose pictures have the form of the first. Raises UserError."""
    try:
        splits = load_checked(further.loader, further.root)
    except UserError as error:
        raise UserError(further.key, str(error)) from error
    if splits.train is splits.test:
        problem = "its samples are for training and for evaluation alike"
        raise UserError(f"{further.key}.tasks=own", problem, "expected a set with a test part")
    if info.kind == "text":
        return splits
    if further.loader.info().form == info.form:
        return splits
    return splits.mapped(lambda source: in_form(source, info.form, further.key))


def with_tasks(source: Source, names: Mapping[str, str], classes: Classes) -> Source:
    """The same samples with targets of all tasks, -1 for those that are not in `names`, which says
    what the tasks of the source are called."""
    known = {
        called: source.targets[task] for task, called in names.items() if task in source.targets
    }
    own = copy.copy(source)
    own.targets = known
    own.targets = {task: without_labels(own, task) for task in classes}
    own.classes = classes
    return own


def in_a_row(sources: Sequence[Source]) -> Source:
    """One source of all samples."""
    if len(sources) == 1:
        return sources[0]
    first = sources[0]
    if not isinstance(first, TextSource):
        return Joined(sources)
    texts = joined([source.texts for source in sources if isinstance(source, TextSource)])
    targets = {
        task: torch.cat([source.targets[task] for source in sources]) for task in first.targets
    }
    return TextSource(texts, targets, first.classes)


# -- pictures of another form ----------------------------------------------------------------------
def in_form(source: Source, form: PictureForm, key: str) -> Source:
    """The same pictures, brought to a form. Raises UserError where that is not possible."""
    if isinstance(source, Joined):
        changed = copy.copy(source)
        changed.sources = [in_form(part, form, key) for part in source.sources]
        return changed
    own = getattr(source, "form", None)
    channels = source.pixels.shape[1] if isinstance(source, ArraySource) else None
    channels = own.channels if isinstance(own, PictureForm) else channels
    if channels is None or (channels != form.channels and {channels, form.channels} != {1, 3}):
        problem = f"its pictures cannot be brought to {'×'.join(map(str, form.shape))}"
        raise UserError(key, problem, "expected the channels and the size of the first set")
    if isinstance(source, ArraySource):
        blocks = [resized(block, form) for block in source.pixels.split(BLOCK)]
        return ArraySource(torch.cat(blocks), source.targets, source.classes)
    # decoded when they are fetched
    changed_form = copy.copy(source)
    changed_form.form = form  # type: ignore[attr-defined]
    return changed_form


def resized(pixels: Tensor, form: PictureForm) -> Tensor:
    """uint8 [N, C, H, W] of pictures of another size, or of one channel in place of three."""
    levels = pixels.float()
    if levels.shape[1] == 3 and form.channels == 1:
        levels = (levels * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    count, channels = levels.shape[:2]
    levels = brought(levels.flatten(0, 1), form).unflatten(0, (count, channels))
    whole = levels.round().clamp(0, 255).to(torch.uint8)
    return whole.expand(-1, form.channels, -1, -1).contiguous()


def set_lines(own: Mapping[str, Further], info: DataInfo, starts: Sequence[int]) -> list[str]:
    """A line for each set, for the plan. info: of all. starts: as `Joint` has them; empty before
    anything is read."""
    lines = []
    sizes = [stop - start for start, stop in pairwise(starts)]
    for place, (name, further) in enumerate(own.items(), 1):
        mine = further.loader.info()
        count = f"{sizes[place]:,} samples" if sizes else "samples"
        if mine.shape is not None and mine.form.size != info.form.size:
            count += f", from {mine.form.height}×{mine.form.width} pixels"
        names = ", ".join(task_names(name, list(mine.tasks)).values())
        lines.append(f"set {name}: {count}, with labels of {names} alone")
    return lines


# -- batches ---------------------------------------------------------------------------------------
class SetsInTurn:
    """One sample of each set after the other, so that batches have equally many; the samples of
    each set in shuffled passes of their own.

    rows: int64 [M], of the samples of the stream. starts: where each set begins among the rows,
    and the end of the last.
    """

    def __init__(self, rows: Tensor, starts: Sequence[int], seed: int, stream: str):
        self.members = []
        for first, last in pairwise(starts):
            here = ((rows >= first) & (rows < last)).nonzero().flatten()
            if len(here):
                self.members.append(here)
        self.passes = [
            ShuffledPasses(len(own), seed, f"{stream}/set {i}")
            for i, own in enumerate(self.members)
        ]

    def take(self, start: int, stop: int) -> Tensor:
        sets = len(self.members)
        taken = torch.empty(stop - start, dtype=torch.int64)
        for i, (own, passes) in enumerate(zip(self.members, self.passes, strict=True)):
            # the first place of this set from `start` on, and its number among those of the set
            first = start + (i - start) % sets
            places = range(first, stop, sets)
            draws = passes.take(first // sets, first // sets + len(places))
            taken[first - start :: sets] = own[draws]
        return taken
