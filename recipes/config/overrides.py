"""What Hydra composes of a command's overrides; and, since it stops at the first that it refuses,
all that is wrong with them."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError
from recipes.config import messages as complaints
from recipes.config.messages import Catalogue

NO_FOLDER = r"provider=.*, path=(.*) is not available"
REFUSALS = (HydraException, OmegaConfBaseException, ValueError)


@contextmanager
def hydra_at(root: Path) -> Iterator[None]:
    """Hydra's compose interface over a folder of configs."""
    with initialize_config_dir(str(root.resolve()), version_base="1.3", job_name="roux"):
        yield


def compose_quietly(overrides: Sequence[str]) -> DictConfig:
    """Compose, Hydra's node included; a search path that does not exist is an error, not a
    warning."""
    with strict_search_path():
        return compose("config", overrides=list(overrides), return_hydra_config=True)


@contextmanager
def strict_search_path() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NO_FOLDER)
        try:
            yield
        except UserWarning as warning:
            missing = re.match(NO_FOLDER, str(warning))
            path = missing[1] if missing else str(warning)
            line = f"hydra.searchpath: there is no '{path}'; give file:///FOLDER or pkg://PACKAGE"
            raise ValueError(line) from None


def loader() -> ConfigLoader:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "only inside hydra_at"
    return hydra.config_loader


def catalogue(overrides: Sequence[str]) -> Catalogue:
    """All groups and what they offer, on the search path of this command."""
    path = [o for o in overrides if complaints.key_of(o) == "hydra.searchpath"]

    def offers(group: str, kind: ObjectType = ObjectType.CONFIG) -> list[str]:
        names = loader().get_group_options(group, kind, overrides=path)
        return [name for name in names if not name.startswith("_")]

    def below(group: str) -> Iterator[str]:
        for name in offers(group, ObjectType.GROUP):
            if name != "hydra" or group:
                full = f"{group}/{name}" if group else name
                yield full
                yield from below(full)

    with strict_search_path():
        return Catalogue({group: offers(group) for group in below("")})


def salvage(
    overrides: list[str], refusal: Exception, elsewhere: Sequence[str] = ()
) -> tuple[DictConfig | None, list[str]]:
    """All that is wrong with a command that Hydra refused, and the config of what is right in it,
    if there is one.

    elsewhere: overrides that, in a recipe of stages, may be about a method of another stage: left
    out where this one does not have it."""
    faults: list[str] = []
    try:
        known = catalogue(overrides)
    except REFUSALS:  # the search path itself is at fault
        known = catalogue([])
    parsed = list(_kept(overrides, _parse, faults))
    groups = [o for o in parsed if known.is_group(o)]
    groups = list(_kept(groups, known.choice_fault, faults))
    values = [o for o in parsed if not known.is_group(o)]
    hydra = [o for o in values if o.is_hydra_override()]
    try:
        base = compose_quietly([o.input_line or "" for o in groups + hydra])
    except REFUSALS as error:
        return None, faults or [complaints.translate(error, known)]
    staged = base.get("stages") or any(o.key_or_group.partition(".")[0] == "stages" for o in values)
    others = [
        o
        for o in values
        if staged and o.input_line in elsewhere and complaints.lacks(base, o.key_or_group)
    ]
    own = [o for o in values if not o.is_hydra_override() and o not in others]
    own = _kept(own, lambda o: known.key_fault(o, base), faults)
    try:
        composed = compose_quietly([o.input_line or "" for o in [*groups, *hydra, *own]])
    except REFUSALS as error:
        return None, [*faults, complaints.translate(error, known)]
    return composed, faults or ([] if others else [complaints.translate(refusal, known)])


def _parse(text: str) -> Override:
    if text.startswith("="):
        raise UserError(f"{text}: expected KEY=VALUE or GROUP=NAME")
    try:
        return OverridesParser.create(config_loader=loader()).parse_overrides([text])[0]
    except OverrideParseException as error:
        raise UserError(complaints.grammar(text, error)) from error


def _kept(items: Sequence[Any], check: Callable[[Any], Any], faults: list[str]) -> list[Any]:
    """What passes the check (or what the check makes of it); a `UserError` becomes a fault."""
    kept = []
    for item in items:
        try:
            made = check(item)
        except UserError as error:
            faults.append(str(error))
        else:
            kept.append(item if made is None else made)
    return kept
