"""The small commands beside training, in the spelling of its command line: KEY=VALUE, and `--help`.

A command is a function whose annotated arguments are the keys. Mistakes are lines on stderr and
exit code 2, all of them at once and before anything is read."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from foundation.errors import UserError, nearest
from foundation.exit_codes import exit_code
from recipes.config.signatures import Argument, describe, fits, hint, signature


def run_command(argv: Sequence[str], command: Callable[..., Any], about: str) -> int:
    """Call a command with what a command line says; returns the exit code. about: what `--help`
    prints."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(about.strip())
        return 0

    def action() -> int:
        command(**read_options(argv, signature(command).arguments))
        return 0

    return exit_code(action)


def read_options(argv: Sequence[str], known: dict[str, Argument]) -> dict[str, Any]:
    """The arguments by name. Raises UserError with a line for each mistake."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for text in argv:
        key, equals, value = text.partition("=")
        if not equals or key.startswith("-"):
            faults.append(f"{text}: expected KEY=VALUE, with a key of: {', '.join(known)}")
        elif key not in known:
            faults.append(f"{key}: there is no such key; {nearest(key, known)}")
        elif key in found:
            faults.append(f"{key}: is given twice")
        else:
            found[key] = meant(value, known[key].annotation)
            if not fits(found[key], known[key].annotation):
                more = hint(found[key], known[key].annotation)
                line = f"{key}: got '{value}', expected {describe(known[key].annotation)}"
                faults.append(f"{line}; {more}" if more else line)
    unsaid = [key for key, argument in known.items() if argument.required and key not in found]
    faults += [
        f"{key}: is missing; add {key}=…"
        for key in unsaid
        if not any(line.startswith(key) for line in faults)
    ]
    if faults:
        raise UserError("\n".join(faults))
    return found


def meant(text: str, annotation: Any) -> Any:
    """A value as it is written: text where text is asked for, else a number, true, false or
    null."""
    if text != "null" and fits(text, annotation):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
