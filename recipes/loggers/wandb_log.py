"""Reads the metrics in the offline files of a W&B run, which are wandb's transaction logs.

A killed run has logged steps after its last checkpoint, which the resumed run repeats, and may have
lost steps that were not yet on disk. Only the files tell which.

A file has LevelDB's log format: blocks of 32 KiB, and before each part of a record a header of 7
bytes: checksum, length, and whether the part is a whole record, or the first, a middle or the last
part of one.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

MAGIC = b":W&B"
HEAD = 7
BLOCK = 32768
WHOLE = 1
FIRST = 2
MIDDLE = 3
LAST = 4


def logged_names(files: Iterable[Path]) -> dict[int, set[str]]:
    """Names of the logged metrics, by step."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    names: dict[int, set[str]] = {}
    for path in files:
        for raw in records(path.read_bytes()):
            record = Record()
            try:
                record.ParseFromString(raw)
            except DecodeError:
                break  # truncated when the machine was lost
            values = {
                item.key or ".".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "step" in values:
                names.setdefault(int(values["step"]), set()).update(values)
    return names


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file, up to the first truncated one; none of a file in another format."""
    if not data.startswith(MAGIC):
        return
    parts = b""
    position = HEAD  # the header of the file has the length of a part's header
    while position + HEAD <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEAD:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEAD])
        position += HEAD + length
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or position > len(data):
            return
        parts += data[position - length : position]
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
