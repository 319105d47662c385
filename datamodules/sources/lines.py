"""The lines of a text file, read one after the other: a file need not fit into memory."""

import codecs
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from datamodules.sources.files import check_regular, no_such_file
from foundation.errors import UserError

CHUNK = 2**20  # characters that are read at once


def stream_lines(path: Path, encoding: str = "utf-8", setting: str = "") -> Iterator[str]:
    """The lines of a file, each with its `\\n`; the last one may have none. Raises UserError if it
    is missing, not readable or not in this encoding.

    `\\r\\n` ends a line as well. A single `\\r` is a character, unless the whole file ends
    its lines so.

    setting: the key that changes the encoding, for the message.
    """
    check_regular(path)
    try:
        with _opened(path, encoding, setting) as file:
            yield from _lines(file, path, encoding, setting)
    except FileNotFoundError:
        raise no_such_file(path) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a readable file"
        ) from None


def read_text(path: Path, encoding: str = "utf-8", setting: str = "") -> str:
    """The whole file, as its lines."""
    return "".join(stream_lines(path, encoding, setting))


def _opened(path: Path, encoding: str, setting: str) -> TextIOWrapper:
    codec = encoding
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        codec = "utf-8-sig"  # skips the byte-order mark that some programs write
    try:
        # newline="": the ends of lines are those of `stream_lines`
        return path.open(encoding=codec, newline="")
    except LookupError:
        raise UserError(
            f"{setting or 'encoding'}={encoding}: no such encoding; expected one like utf-8 or "
            "latin-1"
        ) from None


def _lines(file: TextIOWrapper, path: Path, encoding: str, setting: str) -> Iterator[str]:
    begun: list[str] = []  # pieces of a line whose end is not read yet
    ended = False  # whether any line has ended
    while True:
        try:
            chunk = file.read(CHUNK)
        except UnicodeError as error:
            raise _wrong_encoding(file, error, path, encoding, setting) from None
        if not chunk:
            break
        stop = chunk.rfind("\n") + 1
        if not stop:
            begun.append(chunk)
            continue
        ended = True
        whole = "".join([*begun, chunk[:stop]]).replace("\r\n", "\n")
        begun = [chunk[stop:]]
        for line in whole.split("\n")[:-1]:
            yield f"{line}\n"
    rest = "".join(begun)
    if not ended:
        rest = rest.replace("\r", "\n")
    for line in rest.split("\n")[:-1]:
        yield f"{line}\n"
    last = rest.rpartition("\n")[2]
    if last:
        yield last


def _wrong_encoding(
    file: TextIOWrapper, error: UnicodeError, path: Path, encoding: str, setting: str
) -> UserError:
    reason = str(error)
    if isinstance(error, UnicodeDecodeError):
        # the place in the file: the decoder has read all text before its last chunk
        read = file.buffer.tell()  # type: ignore[attr-defined]
        place = read - len(error.object) + error.start
        reason = f"byte {place} is 0x{error.object[error.start]:02x}"
    with path.open("rb") as raw:
        wide = raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    other = "utf-16" if wide else "e.g. latin-1"
    remedy = f"expected another {setting}, {other}" if setting else f"save it as {encoding}"
    return UserError(f"{path}: not {encoding} ({reason}); {remedy}")
