"""Methods written for version 0.1 go on working: old names of points and signatures without `step`.

`adapt_method` runs when a class of methods is created. It gives an old class the points of today,
which call the old ones, and prints one line that names both.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from foundation.renamed import older_attributes, print_once
from recipes.contract.declaration import Declaration

# old point -> (today's point, number of its arguments in version 0.1)
POINTS_0_1 = {
    "cost": ("class_losses", 4),
    "weigh": ("sample_weights", 5),
    "receive": ("transform_input", 3),
    "leave": ("save_artifacts", 2),
    "fold": ("merge", 1),
}
WITHOUT_STEP = {"adjust": 5, "class_losses": 4, "sample_weights": 5}
SLOTS_0_1 = {"cost": "class_losses"}

CONTEXT_0_1 = {"at": "methods_at", "forward_apart": "extra_forward"}
older_context = older_attributes(CONTEXT_0_1)
"""Decorator of the recipe: what methods of version 0.1 used of it."""

Changes = Iterator[tuple[str, str]]


def adapt_method(cls: type) -> None:
    """Add today's points to a class that has old ones; a class of today stays as it is."""
    changes = [*_rename_points(cls), *_add_step(cls)]
    if changes:
        old = ", ".join(old for old, _ in changes)
        new = ", ".join(new for _, new in changes)
        print_once(f"{cls.__module__}.{cls.__qualname__}: {old} of version 0.1 is now {new}")


def current_declaration(declaration: Declaration) -> Declaration:
    """The declaration with today's names of slots."""
    if not SLOTS_0_1.keys() & set(declaration.slots):
        return declaration
    return replace(declaration, slots=tuple(SLOTS_0_1.get(s, s) for s in declaration.slots))


def _rename_points(cls: type) -> Changes:
    """Old names in the class itself; subclasses of an old class may override them again."""
    for old, (new, count) in POINTS_0_1.items():
        function = vars(cls).get(old)
        # a helper of a method of today may have such a name: then the number of arguments differs,
        # or the class has the point of today
        if new in vars(cls) or not callable(function) or _arguments(function) != count:
            continue
        setattr(cls, new, _calls(function, old))
        yield old, new


def _add_step(cls: type) -> Changes:
    """Points that had no `step` in version 0.1, under old or today's names."""
    for new, count in WITHOUT_STEP.items():
        function = vars(cls).get(new)
        if callable(function) and _arguments(function) == count:
            setattr(cls, new, _without_step(function))
            if new not in {name for name, _ in POINTS_0_1.values()}:
                yield f"{new}(…)", f"{new}(step, …)"


def _arguments(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a function takes beside `self`; None where it takes any."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    return len(parameters) - 1


def _calls(function: Callable[..., Any], old: str) -> Callable[..., Any]:
    """A function that calls the method's `old`, also where a subclass overrides it."""

    @functools.wraps(function)
    def point(self: Any, *args: Any) -> Any:
        return getattr(self, old)(*args)

    return point


def _without_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """A point of today, called with the step first, that calls one of version 0.1."""

    # not `wraps`: the signature is that of today
    def point(self: Any, step: Any, *args: Any) -> Any:
        return function(self, *args)

    return point
