"""What tells the data of a run from other data: a checkpoint keeps it, and a run that resumes
compares it with the data it has read.

Tables by sample index, class counts and splits belong to the samples of the run that made them. A
fingerprint has digests of a few hundred blocks of samples, so that its size does not grow with the
set and the first block that differs can be named.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.names import printable
from datamodules.source import Source, Splits
from foundation.errors import UserError

BLOCKS = 512
Fingerprint = dict[str, dict[str, Any]]  # by part, in builtin types and tensors
FIELDS = {"samples": int, "classes": int, "labels": Tensor, "contents": Tensor}
AS_IT_WAS = "as the run began"


@dataclass(frozen=True)
class DataChange:
    """One part of a set that is another one. old, new: what it was and is, in words."""

    part: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.part} part: {self.old} -> {self.new}"


def digest(*contents: bytes) -> int:
    """64 bits, as a signed integer."""
    state = hashlib.blake2b(digest_size=8)
    for content in contents:
        state.update(content)
    return int.from_bytes(state.digest(), "little", signed=True)


def block_size(samples: int) -> int:
    """Samples of a block: a power of two, so that a few samples more do not move the blocks."""
    size = 1
    while size * BLOCKS < samples:
        size *= 2
    return size


def fingerprint_of(splits: Splits, further: Mapping[str, Splits] | None = None) -> Fingerprint:
    """The fingerprint of all parts of a set, and of the further sets of a run by their names."""
    parts = all_parts(splits, further or {})
    return {name: part_of(source) for name, source in parts.items()}


def all_parts(splits: Splits, further: Mapping[str, Splits]) -> dict[str, Source]:
    """The parts that there are, those of a further set as `NAME/train` and so on."""
    found = {}
    for prefix, one in [("", splits), *((f"{name}/", more) for name, more in further.items())]:
        for part in ("train", "val", "test"):
            source = getattr(one, part)
            if source is not None:
                found[f"{prefix}{part}"] = source
    return found


def part_of(source: Source) -> dict[str, Any]:
    samples = len(source)
    size = block_size(samples)
    blocks = [slice(start, min(start + size, samples)) for start in range(0, samples, size)]
    targets = [source.targets[task].contiguous().numpy() for task in sorted(source.targets)]
    labels = [digest(*(values[block].tobytes() for values in targets)) for block in blocks]
    contents = [digest(source.signature(block)) for block in blocks]
    names = repr(sorted(source.classes.items()))
    return {
        "samples": samples,
        "classes": digest(names.encode("utf-8", "surrogatepass")),
        "labels": torch.tensor(labels),
        "contents": torch.tensor(contents),
    }


def data_changes(
    old: Any, new: Fingerprint, sources: Mapping[str, Source], where: str
) -> list[DataChange]:
    """What differs between the data of a checkpoint and those that were read, a part each.

    old: the fingerprint in the checkpoint; None in one of an older version.
    sources: the parts that were read, of `all_parts`.
    where: begins the message of the UserError for a fingerprint that is none.
    """
    if old is None:
        return []
    check_form(old, where)
    changes = []
    for part in dict.fromkeys([*new, *old]):
        before, now = old.get(part), new.get(part)
        if before is None or now is None:
            sizes = [f"{entry['samples']} samples" if entry else "none" for entry in (before, now)]
            changes.append(DataChange(part, *sizes))
            continue
        changes += part_changes(part, before, now, sources[part])
    return changes


def check_form(old: Any, where: str) -> None:
    """Raise UserError for a fingerprint of another form."""
    entries = old.values() if isinstance(old, Mapping) else [None]
    for entry in entries:
        fits = isinstance(entry, Mapping) and all(
            isinstance(entry.get(name), form) for name, form in FIELDS.items()
        )
        if not fits:
            raise UserError(
                where, "its fingerprint of the data is damaged", "resume from another checkpoint"
            )


def part_changes(
    part: str, before: Mapping[str, Any], now: Mapping[str, Any], source: Source
) -> list[DataChange]:
    """How one part differs: by its number of samples, its classes, the first sample that is
    another one or has another label."""
    moved = first_difference(before, now, "contents")
    relabeled = first_difference(before, now, "labels")
    if before["samples"] != now["samples"]:
        found = [block for block in (moved, relabeled) if block is not None]
        place = f", the first other one {named(source, min(found))}" if found else ""
        new = f"{now['samples']} samples{place}"
        return [DataChange(part, f"{before['samples']} samples", new)]
    if moved is not None:
        return [DataChange(part, AS_IT_WAS, f"the first other sample is {named(source, moved)}")]
    if relabeled is not None:
        new = f"the first other label is of {named(source, relabeled)}"
        return [DataChange(part, AS_IT_WAS, new)]
    if before["classes"] != now["classes"]:
        return [DataChange(part, AS_IT_WAS, "its classes have other names")]
    return []


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], field: str) -> int | None:
    """The first block that differs; None if all that both have are equal, or none is comparable."""
    if block_size(before["samples"]) != block_size(now["samples"]):
        return None
    common = min(len(before[field]), len(now[field]))
    differing = (before[field][:common] != now[field][:common]).nonzero()
    if len(differing):
        return int(differing[0])
    # all are equal: where there are more now, the first of them
    return common if len(now[field]) > common else None


def named(source: Source, block: int) -> str:
    """The samples of a block for a message: `number 13, 'b/4.png'`."""
    size = block_size(len(source))
    first = block * size
    if first >= len(source):
        return "beyond the last"
    name = source.name_of(first)
    shown = f", '{printable(name)}'" if name else ""
    if size == 1:
        return f"number {first}{shown}"
    return f"among the {size} from number {first}{shown} on"
