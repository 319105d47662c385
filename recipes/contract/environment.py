"""The properties of a run that methods depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Environment:
    """The properties of a run that methods depend on, all from the config.

    kind: `image` or `text`.
    views: base names of the data set's views (`weak`, `strong`).
    tasks: number of heads, None if unknown.
    shape: (C, H, W) of pictures, None for texts or if it is known only after reading.
    sources: names of the sets beside the first one, of `data.sources`.
    optimizer: its name in timm; empty if unknown. SGD with momentum is `momentum`.
    """

    kind: str
    views: frozenset[str]
    data: str = "data"
    tasks: int | None = None
    shape: tuple[int, int, int] | None = None
    accumulate: int = 1
    precision: str = "32-true"
    devices: int = 1
    compile: bool = False
    families: Mapping[str, str] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()
    optimizer: str = ""

    def option(self, key: str) -> str:
        """The command-line option of a method, e.g. `regularization=mixup`."""
        return f"{self.families[key]}={key}" if key in self.families else f"methods.{key}"
