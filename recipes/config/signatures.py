"""Annotations as a contract for config values: what a target takes, whether a value fits, and plain
words for it.

Whatever the annotation, no number is NaN or infinite or beyond 64 bits, and no text holds a NUL
(`recipes.config.unusable`).

Values are judged by pydantic in its strict mode for JSON: an integer is a number, a list may become
a tuple, and nothing else is converted: `'0.9'` is no number, `true` is no integer."""

import importlib
import inspect
import json
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from foundation.errors import UserError, did_you_mean, nearest_name
from recipes.config.unusable import unusable

UNKNOWN = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """One argument that a config may give: its annotation (`UNKNOWN` where it has none) and whether
    it must."""

    annotation: Any
    required: bool
    default: Any = None


@dataclass(frozen=True)
class Signature:
    """The arguments of a target that a config may give by name; `open_ended` where it takes any
    further ones."""

    arguments: dict[str, Argument]
    open_ended: bool


def find_target(path: str) -> Callable[..., Any]:
    """The object at a dotted path. Raises `UserError` where a module is missing or has no such
    name."""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise UserError(f"cannot import '{path}': expected a dotted path, PACKAGE.MODULE.NAME")
    found: Any = None
    for size in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:size])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(error.name + ".")):
                continue  # a class may stand in the middle of the path
            raise UserError(f"cannot import '{path}': {error}") from error
        except ImportError as error:
            raise UserError(f"cannot import '{path}': {error}") from error
        return _walk(found, parts, size)
    raise UserError(
        f"cannot import '{path}': there is no module "
        f"'{parts[0] if len(parts) < 2 else '.'.join(parts[:-1])}'"
    )


def _walk(found: Any, parts: list[str], size: int) -> Callable[..., Any]:
    for i, name in enumerate(parts[size:], size):
        if not hasattr(found, name):
            public = [n for n in vars(found) if not n.startswith("_")]
            near = did_you_mean(nearest_name(name, public))
            holder = ".".join(parts[:i])
            raise UserError("", f"'{holder}' has no '{name}'", near or "check the name")
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"'{'.'.join(parts)}' is no class or function")
    return found


@lru_cache(maxsize=512)
def signature(target: Callable[..., Any]) -> Signature:
    """What a config may give to a target. Positional-only arguments are the engine's, and left
    out."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return Signature({}, open_ended=True)
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    arguments = {
        p.name: Argument(
            hints.get(p.name, UNKNOWN),
            p.default is p.empty,
            None if p.default is p.empty else p.default,
        )
        for p in named
    }
    return Signature(arguments, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name imported for type checkers only
        raw = getattr(function, "__annotations__", {})
        return {name: hint for name, hint in raw.items() if not isinstance(hint, str)}


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value from YAML may be given to an argument with this annotation."""
    if unusable(value, annotation):
        return False
    if annotation is UNKNOWN:
        return True
    try:
        _adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        return False
    except PydanticUserError:  # an annotation that pydantic cannot read judges nothing
        return True
    return True


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # dataclasses and models bring a config of their own
        return TypeAdapter(annotation)


NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    type(None): "null",
    None: "null",
    Any: "anything",
}


def describe(annotation: Any) -> str:
    """An annotation in plain words: `a number between 0 and 1`, `one of: a, b`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        said = [
            entry.description
            for entry in args[1:]
            if isinstance(entry, FieldInfo) and entry.description
        ]
        return said[0] if said else describe(args[0]) + _bounds(args[1:])
    if origin is Literal:
        words = [json.dumps(a) if not isinstance(a, str) else a for a in args]
        return words[0] if len(words) == 1 else f"one of: {', '.join(words)}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        same = len(set(args)) == 1
        entries = f"each {describe(args[0])}" if same else ", ".join(map(describe, args))
        return f"a list of {len(args)}, {entries}"
    if origin in NAMES and args and origin is not dict:
        return f"a list, each {describe(args[0])}"
    if origin is dict and args[1] is not Any:
        return f"a mapping, each value {describe(args[1])}"
    kind = origin or annotation
    return NAMES.get(kind) or _describe_abstract(kind, args)


def _describe_abstract(kind: Any, args: tuple[Any, ...]) -> str:
    name = getattr(kind, "__name__", str(kind))
    if name in ("Sequence", "Iterable", "Collection") and args:
        return f"a list, each {describe(args[0])}"
    if name == "Mapping":
        return "a mapping"
    return f"a node with _target_ ({name})"


def _bounds(metadata: tuple[Any, ...]) -> str:
    found: dict[str, Any] = {}
    for entry in metadata:
        for rule in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            found |= {k: v for k in BOUNDS if (v := getattr(rule, k, None)) is not None}
    if found.keys() == {"ge", "le"}:
        return f" between {found['ge']} and {found['le']}"
    words = [f"{word} {found[k]}" for k, word in BOUNDS.items() if k in found]
    return f" {' and '.join(words)}" if words else ""


BOUNDS = {
    "ge": "at least",
    "gt": "above",
    "le": "at most",
    "lt": "below",
    "multiple_of": "divisible by",
    "min_length": "with a length of at least",
    "max_length": "with a length of at most",
}


def hint(value: Any, annotation: Any) -> str:
    """What the user may have meant, or nothing."""
    if not isinstance(value, str):
        return ""
    options = [str(o) for o in _literals(annotation)]
    if options:
        return did_you_mean(nearest_name(value, options))
    try:
        plain = json.loads(value)
    except json.JSONDecodeError:
        return ""
    return (
        "write it without quotes" if not isinstance(plain, str) and fits(plain, annotation) else ""
    )


def _literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [o for a in get_args(annotation) for o in _literals(a)]
