"""Foreign content against a pydantic model: the first thing that does not fit, in plain words."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from foundation.errors import UserError

SHOWN = 60  # characters of a value that a message repeats
Model = TypeVar("Model", bound=BaseModel)

EXPECTED = {
    "missing": "it to be there",
    "extra_forbidden": "no such entry",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "is_instance_of": "a tensor",
}


class Form(BaseModel):
    """What an entry of a file must look like. Nothing is converted; further entries pass."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)


class ClosedForm(Form):
    """The same without further entries."""

    model_config = ConfigDict(extra="forbid")


def check_form(content: Any, form: type[Model], key: str, path: Path) -> Model:
    """The content of a file as its model. key: the setting that named the file.

    Raises `UserError`, one line: the file, what was found where, what was expected.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise misfit(error, key, path) from error


def misfit(error: ValidationError, key: str, path: Path) -> UserError:
    first = error.errors(include_url=False)[0]
    place = dotted(first["loc"])
    kind = first["type"]
    found = "missing" if kind == "missing" else f"found {in_words(first['input'])}"
    what = f"{place}: {found}" if place else found
    problem = f"'{path}' is not a run of this version: {what}"
    return UserError(key, problem, f"expected {expected(first)}")


def expected(error: Any) -> str:
    kind = error["type"]
    context = error.get("ctx") or {}
    if kind == "value_error":
        return str(context["error"])
    if kind == "greater_than_equal":
        return f"at least {context['ge']}"
    if kind == "too_short":
        return f"at least {context['min_length']} entry"
    if kind == "too_long":
        return f"{context['max_length']} entry"
    return EXPECTED.get(kind) or str(error["msg"])


def dotted(location: tuple[int | str, ...]) -> str:
    """`numbers.meters[0].names`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        # pydantic marks an error in a key of a mapping so
        elif part != "[key]":
            # Lightning names callbacks by their settings
            name = str(part).partition("{")[0][:SHOWN]
            text += f".{name}" if text else name
    return text


def in_words(value: Any) -> str:
    """A value for a message: short, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple | set):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
