"""Compatibility with methods for version 0.1: old names of points and signatures without `step`.

`adapt_method` runs when a method class is created. It adds the current points to an old class,
which call the old ones, and prints one line with both names.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from foundation.renamed import older_attributes, print_once
from recipes.contract.declaration import Declaration

# old point -> (current point, number of its arguments in version 0.1)
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
"""Decorator of the recipe: the old names of attributes that methods of version 0.1 use."""

Changes = Iterator[tuple[str, str]]


def adapt_method(cls: type) -> None:
    """Add the current points to a class with old ones; a current class does not change."""
    changes = [*_rename_points(cls), *_add_step(cls)]
    if changes:
        old = ", ".join(old for old, _ in changes)
        new = ", ".join(new for _, new in changes)
        print_once(f"{cls.__module__}.{cls.__qualname__}: {old} of version 0.1 is now {new}")


def current_declaration(declaration: Declaration) -> Declaration:
    """The declaration with the current names of slots."""
    if not SLOTS_0_1.keys() & set(declaration.slots):
        return declaration
    return replace(declaration, slots=tuple(SLOTS_0_1.get(s, s) for s in declaration.slots))


def _rename_points(cls: type) -> Changes:
    for old, (new, count) in POINTS_0_1.items():
        function = getattr(cls, old, None)
        # a helper of a current method may have such a name: then its number of arguments differs,
        # or the current point is defined in a more derived class
        if not callable(function) or _arguments(function) != count:
            continue
        if _generation(cls, old) < _generation(cls, new):
            setattr(cls, new, _calls(function, old))
            yield old, new


def _add_step(cls: type) -> Changes:
    """Points that had no `step` in version 0.1, under old or current names."""
    renamed = {new for new, _ in POINTS_0_1.values()}
    for name, count in WITHOUT_STEP.items():
        function = getattr(cls, name)
        if _arguments(function) == count:
            setattr(cls, name, _without_step(function))
            if name not in renamed:
                yield f"{name}(…)", f"{name}(step, …)"


def _generation(cls: type, name: str) -> int:
    """Number of classes in the MRO before the one that defines a name; 0 for `cls` itself."""
    return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))


def _arguments(function: Callable[..., Any]) -> int | None:
    """Number of arguments of a function without `self`; None if it has `*args`."""
    parameters = list(inspect.signature(function).parameters.values())
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
        return None
    return len(parameters) - 1


def _calls(function: Callable[..., Any], old: str) -> Callable[..., Any]:
    """A function that calls the method's `old`, including overrides in subclasses."""

    @functools.wraps(function)
    def point(self: Any, *args: Any) -> Any:
        return getattr(self, old)(*args)

    return point


def _without_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """A current point, with the step as first argument, that calls one of version 0.1."""

    # not `wraps`: the signature is the current one
    def point(self: Any, step: Any, *args: Any) -> Any:
        return function(self, *args)

    return point
