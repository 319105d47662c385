"""What every loaded data set must fulfil, whoever wrote its files and its loader."""

from pathlib import Path

from datamodules.names import is_unicode, printable
from datamodules.source import ArraySource, DataInfo, Loader, Source, Splits, check_labels
from foundation.errors import UserError


def load_checked(loader: Loader, root: str | Path | None) -> Splits:
    """The parts of a set. Raises UserError for labels beyond the classes, other shapes, class names
    that cannot be written and an empty part: otherwise a run ends with its evaluation."""
    splits = loader.load(root)
    info = loader.info()
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    for part, source in parts.items():
        if source is not None:
            check_part(part, source, info, splits.train)
    return splits


def check_names(classes: dict[str, list[str]]) -> None:
    """Raise UserError for class names that cannot be shown or written, and for equal ones."""
    for task, names in classes.items():
        for name in names:
            if not is_unicode(name):
                raise UserError(
                    f"data: class '{printable(name)}' of task '{task}' is not valid Unicode; "
                    "rename it"
                )
            if not name.strip():
                raise UserError(f"data: a class of task '{task}' has no name; expected a word")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"data: two classes of task '{task}' are called '{twice}'; rename one")


def check_part(part: str, source: Source, info: DataInfo, train: Source) -> None:
    """Raise UserError if a part does not fit the facts of its set and the training part."""
    if not len(source):
        raise UserError(f"data: the {part} part has no samples; expected at least one")
    if isinstance(source, ArraySource) and info.shape is not None:
        shape = tuple(source.pixels.shape[1:])
        if shape != info.shape:
            raise UserError(
                f"data: images of the {part} part are {'×'.join(map(str, shape))}; expected "
                f"{'×'.join(map(str, info.shape))} (channels, height, width)"
            )
    check_names(source.classes)
    if not info.disjoint and source.classes != train.classes:
        raise UserError(f"data: the {part} part has other classes than the training part")
    for task, names in source.classes.items():
        expected = info.tasks.get(task)
        if expected not in (None, len(names)):
            raise UserError(f"data: task '{task}' has {len(names)} classes; expected {expected}")
        check_labels(f"data: {part} part, task '{task}'", source.targets[task], len(names))
