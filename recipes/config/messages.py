"""What Hydra refuses, in one line each: the key, what was found, the nearest right name or the
remedy."""

from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException

from foundation.errors import UserError, first_line
from recipes.config.groups import from_hydra

BRACKETS = (("[", "]"), ("{", "}"), ("(", ")"))
LEXER = "LexerNoViableAltException: "  # the class of an error of Hydra's parser, in its message


def not_an_override(text: str, error: OverrideParseException) -> UserError:
    """The error for text that Hydra's grammar does not have."""
    if any(text.count(opening) != text.count(closing) for opening, closing in BRACKETS):
        return UserError(text, "the brackets do not match")
    if "=" not in text.lstrip("~"):
        return no_equals_sign(text)
    reason = str(error.message).splitlines()[0].removeprefix(LEXER)
    remedy = "put values with spaces or signs in quotes: \"KEY='VALUE'\""
    return UserError(text, f"cannot be read ({reason})", remedy)


def no_equals_sign(text: str) -> UserError:
    return UserError(text, "expected KEY=VALUE or GROUP=NAME")


def several_values(override: Override) -> UserError:
    """The error for several values in a single run."""
    key, value = from_hydra(override.get_key_element()), override.get_value_string()
    remedy = "add -m"
    if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP:
        remedy += f", or {key}=[{value}] for a list"
    return UserError(f"{key}={value}", f"several values make several runs: {remedy}")


def other_refusal(error: Exception) -> UserError:
    """The error for a refusal of Hydra's that is about no single override: its words and those of
    its cause."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    words: list[str] = []
    for text in (str(error), str(cause)):
        words += [line.strip() for line in text.splitlines() if line.strip()]
    return UserError("; ".join(dict.fromkeys(words[:3])) or first_line(error))
