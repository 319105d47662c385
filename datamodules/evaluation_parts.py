"""The parts of a run that are evaluated."""

import torch
from torch import Tensor

from datamodules.source import Roles, Source
from datamodules.streams import Part

GALLERY = "_gallery"  # ending of the name of a part in which the queries of another are looked up
CAMERAS = "cameras"  # field of a batch of such parts


def evaluation_parts(name: str, source: Source, roles: Roles | None = None) -> dict[str, Part]:
    """A part that is evaluated, and its gallery where it has one."""
    if roles is None:
        return {name: Part.whole(source)}
    extra = {} if roles.cameras is None else {CAMERAS: roles.cameras}
    return {
        name: Part.of_rows(source, roles.queries, extra),
        f"{name}{GALLERY}": Part.of_rows(source, roles.gallery, extra),
    }


def labeled_rows(source: Source) -> Tensor:
    """The samples that have a label of any task."""
    known = torch.stack([values >= 0 for values in source.targets.values()])
    return known.any(0).nonzero().flatten()


def in_order(names: list[str], stage: str, further: list[str]) -> list[str]:
    """The parts of a stage, `val` or `test`, in the order of their evaluation: of further sets, and
    last the set's own, whose samples and counts the report shows. A gallery comes before its
    queries."""
    stages = [*(f"{name}_{stage}" for name in further), stage]
    order = [part for name in stages for part in (f"{name}{GALLERY}", name)]
    return [part for part in order if part in names]
