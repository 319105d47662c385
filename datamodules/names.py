"""Names that can be written: of files, of classes, in tables."""

from pathlib import Path

from foundation.files import printable

__all__ = ["expanded", "is_unicode", "printable"]


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates: such names and texts cannot be written to a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def expanded(path: str | Path) -> Path:
    """The path with the home folder for a leading `~`; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
