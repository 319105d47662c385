"""The small commands beside training, in the spelling of its command line: KEY=VALUE, and `--help`.

A command is a function whose annotated arguments are the keys. Mistakes are lines on stderr and
exit code 2, all of them at once and before anything is read."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from foundation.errors import UserError, nearest, raise_all
from foundation.exit_codes import exit_code
from recipes.config.signatures import Argument, describe, fits, hint, signature
from recipes.config.whole_numbers import as_whole


def run_command(argv: Sequence[str], command: Callable[..., Any], about: str) -> int:
    """Call a command with what a command line says; returns the exit code: that of the command, 0
    where it returns None. about: what `--help` prints."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(about.strip())
        return 0

    def action() -> int:
        result = command(**read_options(argv, signature(command).arguments))
        return result if isinstance(result, int) else 0

    return exit_code(action)


def read_options(argv: Sequence[str], known: dict[str, Argument]) -> dict[str, Any]:
    """The arguments by name. Raises `ConfigErrors` with a line for each mistake."""
    values: dict[str, Any] = {}
    errors: list[UserError] = []
    for text in argv:
        key, equals, value = text.partition("=")
        if not equals or key.startswith("-"):
            errors.append(UserError(text, f"expected KEY=VALUE, with a key of: {', '.join(known)}"))
        elif key not in known:
            errors.append(UserError(key, "there is no such key", nearest(key, known)))
        elif key in values:
            errors.append(UserError(key, "is given twice"))
        else:
            values[key] = typed_value(value, known[key].annotation)
            errors += option_errors(key, value, values[key], known[key].annotation)
    named = {error.key for error in errors}
    for key, argument in known.items():
        if argument.required and key not in values and key not in named:
            errors.append(UserError(key, "is missing", f"add {key}=…"))
    raise_all(errors)
    return values


def option_errors(key: str, text: str, value: Any, annotation: Any) -> list[UserError]:
    """The error of a value that does not fit. text: as it was written."""
    if fits(value, annotation):
        return []
    problem = f"got '{text}', expected {describe(annotation)}"
    return [UserError(key, problem, hint(value, annotation))]


def typed_value(text: str, annotation: Any) -> Any:
    """A value as it is written: text where text is expected, else a number, true, false or
    null."""
    if text != "null" and fits(text, annotation):
        return text
    try:
        return as_whole(json.loads(text), annotation)
    except json.JSONDecodeError:
        return text
