"""Names of earlier versions that still work: arguments, dataclass fields, attributes.

The first use of an old name in a module prints one line with the old and the new name.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

_printed: set[str] = set()


def print_once(line: str) -> None:
    """Print a line to stderr, the first time in this process."""
    if line not in _printed:
        _printed.add(line)
        print(line, file=sys.stderr)


def calling_module(depth: int) -> str:
    """The name of the module `depth` calls above the caller of this function."""
    return str(sys._getframe(depth + 1).f_globals.get("__name__", "?"))


def older_arguments(**names: str) -> Callable[[F], F]:
    """Decorator: the function also accepts keyword arguments under older names, `old="new"`."""

    def decorate(function: F) -> F:
        owner = function.__qualname__.removesuffix(".__init__")
        older = names.keys()

        @functools.wraps(function)
        def call(*args: Any, **arguments: Any) -> Any:
            # several times in every step, nearly always without an older name
            if not older.isdisjoint(arguments):
                for old in [name for name in arguments if name in names]:
                    new = names[old]
                    print_once(f"{calling_module(1)}: {owner}({old}=…) is now {owner}({new}=…)")
                    arguments[new] = arguments.pop(old)
            return function(*args, **arguments)

        return call  # type: ignore[return-value]

    return decorate


def older_fields(**names: str) -> Callable[[C], C]:
    """Decorator of a dataclass: its fields can also be set and read under older names."""

    def decorate(cls: C) -> C:
        cls.__init__ = older_arguments(**names)(cls.__init__)  # type: ignore[misc]
        for old, new in names.items():
            setattr(cls, old, _older_property(cls.__name__, old, new))
        return cls

    return decorate


def _older_property(owner: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        print_once(f"{calling_module(1)}: {owner}.{old} is now {owner}.{new}")
        return getattr(self, new)

    def write(self: Any, value: Any) -> None:
        setattr(self, new, value)

    return property(read, write)


def older_attributes(names: Mapping[str, str]) -> Callable[[C], C]:
    """Decorator of a class: its attributes and methods can also be read under older names."""

    def decorate(cls: C) -> C:
        for old, new in names.items():
            setattr(cls, old, _older_property(cls.__name__, old, new))
        return cls

    return decorate
