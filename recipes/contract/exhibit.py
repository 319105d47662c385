"""Samples that a measurement shows in the report of a run."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Shown:
    """One sample of an exhibit.

    index: its position in the part `test`; None where `pixels` are given.
    pixels: [C, H, W] in [0, 1].
    caption: text below it.
    task, label: its class, whose name is written below it; None: none.
    right: whether it is as it should be, which is marked; None: no mark.
    """

    index: int | None = None
    pixels: Tensor | None = None
    caption: str = ""
    task: str = ""
    label: int | None = None
    right: bool | None = None


@dataclass(frozen=True)
class Exhibit:
    """Rows of samples with a title and a note that says what they show."""

    title: str
    note: str
    rows: list[list[Shown]] = field(default_factory=list)
