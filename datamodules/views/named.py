"""Views by name, each with its own random numbers."""

from collections.abc import Callable, Mapping
from typing import Any

from foundation.errors import UserError, nearest
from foundation.randomness import Draw

DIGITS = "0123456789"


def named_view(
    views: Mapping[str, Any], data: Any, name: str, draw_for: Callable[[str], Draw] | None = None
) -> Any:
    """The view `name` of raw `data`; see `StreamDataModule.make_view`."""
    view = views.get(name) or views.get(name.rstrip(DIGITS))
    if view is None:
        raise UserError(f"data.views: this data has no view '{name}'; {nearest(name, views)}")

    def prefixed(purpose: str) -> Draw:
        if draw_for is None:
            raise ValueError(f"view '{name}' draws random numbers, and none were given")
        # the full name: `weak` and `weak2` are different draws of one transform
        return draw_for(f"{name}/{purpose}")

    return view(data, prefixed)
