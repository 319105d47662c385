"""Views by name, each with its own random numbers."""

from collections.abc import Callable, Mapping
from typing import Any

from foundation.errors import UserError, nearest
from foundation.randomness import Draw

DIGITS = "0123456789"


def usable_views(given: Mapping[str, Any]) -> dict[str, Any]:
    """The views of a config that are not taken away, with those that they bring."""
    views = {name: view for name, view in given.items() if view is not None}
    for view in list(views.values()):
        # a view that learns offers another from which it does
        if hasattr(view, "probe"):
            views.setdefault("probe", view.probe)
    raw = views.get("raw")
    if raw is not None and hasattr(raw, "fixed"):
        views["raw"] = raw.fixed()  # evaluation draws nothing
    return views


def view_called(views: Mapping[str, Any], name: str) -> Any:
    """The transform behind a view's name, None if there is none."""
    return views.get(name) or views.get(name.rstrip(DIGITS))


def named_view(
    views: Mapping[str, Any], data: Any, name: str, draw_for: Callable[[str], Draw] | None = None
) -> Any:
    """The view `name` of raw `data`; see `StreamDataModule.make_view`."""
    view = view_called(views, name)
    if view is None:
        raise UserError(f"data.views: this data has no view '{name}'; {nearest(name, views)}")

    def prefixed(purpose: str) -> Draw:
        if draw_for is None:
            raise ValueError(f"view '{name}' draws random numbers, and none were given")
        # the full name: `weak` and `weak2` are different draws of one transform
        return draw_for(f"{name}/{purpose}")

    return view(data, prefixed)
