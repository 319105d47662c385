"""Labels by name of many samples, as numbers."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class CodedNames(Sequence[str | None]):
    """A name for each sample, None for none: 4 bytes each, where a list takes 8 and more.

    names: the distinct ones. codes: int32 [N], the place of each among them; -1 for none.
    """

    def __init__(self, names: Sequence[str], codes: np.ndarray):
        self.names = list(names)
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> str | None: ...
    @overload
    def __getitem__(self, place: slice) -> "CodedNames": ...
    def __getitem__(self, place: int | slice) -> "str | CodedNames | None":
        if isinstance(place, slice):
            return CodedNames(self.names, self.codes[place])
        return self._name(int(self.codes[place]))

    def __iter__(self) -> Iterator[str | None]:
        return map(self._name, self.codes.tolist())

    def _name(self, code: int) -> str | None:
        return self.names[code] if code >= 0 else None

    def places(self, numbers: dict[str | None, int]) -> np.ndarray:
        """int64 [N]: the number of each name."""
        table = [numbers[name] for name in [*self.names, None]]  # -1 takes the last
        return np.array(table, dtype=np.int64)[self.codes]


def distinct(names: Sequence[str | None]) -> set[str]:
    """The names that occur."""
    if isinstance(names, CodedNames):
        return set(names.names)
    return {name for name in names if name is not None}
