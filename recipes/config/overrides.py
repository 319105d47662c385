"""What Hydra composes of a command's overrides; and, since it stops at the first that it refuses,
everything that is wrong with them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError
from recipes.config.catalogue import Catalogue
from recipes.config.composing import compose_quietly, loader, strict_search_path
from recipes.config.data_groups import KINDS, misplaced
from recipes.config.keys import key_of, missing_part
from recipes.config.messages import no_equals_sign, not_an_override, other_refusal
from recipes.config.unknown_key import check_key

REFUSALS = (HydraException, OmegaConfBaseException, ValueError)


def catalogue(overrides: Sequence[str]) -> Catalogue:
    """All groups and what they offer, on the search path of this command."""
    path = [o for o in overrides if key_of(o) == "hydra.searchpath"]
    with strict_search_path():
        # `get_group_options` of the loader makes a copy of all sources for each group, which takes
        # a third of the time of a command
        _, repository = loader()._parse_overrides_and_create_caching_repo(None, path)

    def offers(group: str, kind: ObjectType = ObjectType.CONFIG) -> list[str]:
        names = repository.get_group_options(group, kind)
        return [name for name in names if not name.startswith("_")]

    def below(group: str) -> Iterator[str]:
        for name in offers(group, ObjectType.GROUP):
            if name != "hydra" or group:
                full = f"{group}/{name}" if group else name
                yield full
                yield from below(full)

    return Catalogue({group: offers(group) for group in below("")})


@dataclass
class Sorted:
    """Overrides of a command by what they do. choices: of groups. hydra: keys of Hydra's own.
    values: all other keys."""

    choices: list[Override]
    hydra: list[Override]
    values: list[Override]


def sorted_overrides(overrides: Sequence[Override], known: Catalogue) -> Sorted:
    parts = Sorted([], [], [])
    for override in overrides:
        if known.is_group(override):
            parts.choices.append(override)
        elif override.is_hydra_override():
            parts.hydra.append(override)
        else:
            parts.values.append(override)
    return parts


def collect_errors(
    overrides: list[str], refusal: Exception, elsewhere: Sequence[str] = ()
) -> tuple[DictConfig | None, list[UserError]]:
    """All that is wrong with a command that Hydra refused, and the config of what is right in it,
    if there is one.

    elsewhere: overrides that, in a recipe of stages, may be about a method of another stage: left
    out if this one does not have it."""
    errors: list[UserError] = []
    known = catalogue_or_default(overrides)
    parts = sorted_overrides(passing(overrides, parse, errors), known)
    choices = passing(parts.choices, known.check_choice, errors)
    choices = choices_of_data(choices, parts.hydra, errors)
    try:
        base = compose_parsed([*choices, *parts.hydra])
    except REFUSALS as error:
        return None, errors or [refusal_error(error, known)]
    own = parts.values
    if has_stages(base, own):
        own = [o for o in own if o.input_line not in elsewhere or not missing(o, base)]
    left_out = len(own) < len(parts.values)
    own = passing(own, lambda override: check_key(override, base, known), errors)
    try:
        composed = compose_parsed([*choices, *parts.hydra, *own])
    except REFUSALS as error:
        return None, [*errors, refusal_error(error, known)]
    if not errors and not left_out:
        errors = [refusal_error(refusal, known)]
    return composed, errors


def choices_of_data(
    choices: Sequence[Override], hydra: Sequence[Override], errors: list[UserError]
) -> list[Override]:
    """The choices without those of groups that the chosen data do not have, as views of pictures
    beside texts; their errors are added to `errors`."""
    nested = [choice for choice in choices if choice.key_or_group in KINDS]
    others = [choice for choice in choices if choice not in nested]
    try:
        base = compose_parsed([*others, *hydra])
    except REFUSALS:
        return list(choices)
    name = str(base.hydra.runtime.choices.get("data"))
    fitting = []
    for choice in nested:
        error = misplaced(choice.input_line or "", base.data, name)
        if error is None:
            fitting.append(choice)
        else:
            errors.append(error)
    return [*others, *fitting]


def catalogue_or_default(overrides: Sequence[str]) -> Catalogue:
    """The catalogue of a command, without its search path if that is what is wrong."""
    try:
        return catalogue(overrides)
    except REFUSALS:
        return catalogue([])


def compose_parsed(overrides: Sequence[Override]) -> DictConfig:
    return compose_quietly([override.input_line or "" for override in overrides])


def has_stages(base: DictConfig, values: Sequence[Override]) -> bool:
    """Whether a command is a recipe of several stages, by its files or by its own words."""
    sections = {override.key_or_group.partition(".")[0] for override in values}
    return bool(base.get("stages")) or "stages" in sections


def missing(override: Override, config: DictConfig) -> bool:
    """Whether an override is about a method or measurement that this run does not have."""
    return bool(missing_part(config, override.key_or_group))


def refusal_error(refusal: Exception, known: Catalogue) -> UserError:
    """A refusal of Hydra's in one line."""
    if isinstance(refusal, MissingConfigException) and refusal.missing_cfg_file:
        group, _, name = str(refusal.missing_cfg_file).rpartition("/")
        if group in known.groups:
            return known.no_option(group, name)
    if isinstance(refusal, OverrideParseException):
        return not_an_override(refusal.override, refusal)
    return other_refusal(refusal)


def parse(text: str) -> Override:
    if text.startswith("="):
        raise no_equals_sign(text)
    try:
        return OverridesParser.create(config_loader=loader()).parse_overrides([text])[0]
    except OverrideParseException as error:
        raise not_an_override(text, error) from error


def passing(
    items: Sequence[Any], check: Callable[[Any], Any], errors: list[UserError]
) -> list[Any]:
    """The items that pass a check, or what the check makes of them; its `UserError`s are added to
    `errors`."""
    passed = []
    for item in items:
        try:
            made = check(item)
        except UserError as error:
            errors.append(error)
        else:
            passed.append(item if made is None else made)
    return passed
