"""What the offline files of a W&B run hold, read back from wandb's own transaction logs.

A run that was killed has logged steps after its last checkpoint, which the resumed run goes through
again, and may have lost others that were still on their way to the disk. Only the files know.

A file is in LevelDB's log format: blocks of 32 KiB, and before each part of a record a header of 7
bytes: checksum, length, and whether it is a whole record, or the first, a middle or the last part
    of one.
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


def held(files: Iterable[Path]) -> dict[int, set[str]]:
    """Names of the metrics that files hold, by step."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    found: dict[int, set[str]] = {}
    for path in files:
        for raw in records(path.read_bytes()):
            record = Record()
            try:
                record.ParseFromString(raw)
            except DecodeError:
                break  # cut off where the machine was lost
            values = {
                item.key or ".".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "step" in values:
                found.setdefault(int(values["step"]), set()).update(values)
    return found


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file, up to one that was cut off."""
    place, parts = (
        HEAD if data.startswith(MAGIC) else len(data),
        b"",
    )  # the file's own head is as long as a part's
    while place + HEAD <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEAD:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEAD])
        place += HEAD + length
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or place > len(data):
            return
        parts += data[place - length : place]
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
