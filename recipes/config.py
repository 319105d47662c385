"""From a command line to a sound config, or to the list of everything that is wrong with it.

Hydra composes; what it refuses is said again in one line with the nearest right name, and since it stops at
its first refusal, the command is then taken apart so that all faults come at once. After that `validation`
looks at the tree.

A recipe may set keys of a method that the command line replaced (`recipe=fixmatch
semi_supervised=mean_teacher` leaves `methods.fixmatch.tau` behind): such leftovers are dropped, unless the
user named them, which is a mistake."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from datamodules.errors import UserError
from recipes import complaints
from recipes.complaints import Catalogue
from recipes.groups import CONFIGS, SINGLE, spoken, written
from recipes.validation import validate

NO_FOLDER = r"provider=.*, path=(.*) is not available"
REFUSALS = (HydraException, OmegaConfBaseException, ValueError)


class Faults(UserError):
    """Several mistakes at once, a line each."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("\n".join(lines))
        self.lines = list(lines)


@dataclass
class Command:
    """A sound command: the resolved config without Hydra's node, and the methods whose leftovers were
    dropped."""

    config: DictConfig
    dropped: list[str] = field(default_factory=list)


def resolve_command(overrides: Sequence[str], root: Path = CONFIGS) -> Command:
    """Compose and validate one run. Raises `Faults` with a line for each mistake."""
    overrides = spoken(overrides, root)
    with hydra_at(root):
        faults: list[str] = []
        composed: DictConfig | None
        mixed = [o for o in overrides if is_list_of_choices(o)]
        single = [o for o in overrides if o not in mixed]
        try:
            composed = compose_quietly(single)
        except REFUSALS as refusal:
            composed, faults = salvage(single, refusal)
        if composed is None or mixed:
            raise Faults([*faults, *(f"{written(o)}: takes one choice, only families take a list" for o in mixed)])
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        try:
            return settle(composed, overrides, faults)
        finally:
            HydraConfig.instance().cfg = None


def settle(config: DictConfig, overrides: Sequence[str], faults: Sequence[str] = ()) -> Command:
    """Drop leftovers, validate, resolve. Raises `Faults`, those given among them.

    Needs Hydra to be initialised, for the search path, and its config to be set, for `${hydra:…}`."""
    leftovers, dropped = drop_leftovers(config, overrides, lambda: catalogue(overrides))
    leftovers += drop_unmeasured(config, overrides)
    name_lists(config, lambda: catalogue(overrides))
    faults = [*faults, *leftovers, *validate(config)]
    if faults:
        raise Faults(faults)
    OmegaConf.resolve(config)
    if config.get("stages"):
        config.stages = stage_configs(config.stages, overrides)
    return Command(config, dropped)


def stage_configs(stages: DictConfig, overrides: Sequence[str]) -> dict[str, DictConfig]:
    """The config of every stage of a recipe: the command, with the stage's own overrides before the user's, which win.

    Raises `Faults` of all stages."""
    found: dict[str, DictConfig] = {}
    faults: list[str] = []
    groups, outer = catalogue(overrides).groups, HydraConfig.instance().cfg
    for name in map(str, stages):
        own = stages[name]
        chosen = {key for key in map(complaints.key_of, own) if key in groups}
        try:
            clashes = [o for o in overrides if complaints.key_of(o) in chosen]
            if clashes:
                raise Faults([f"{o}: this stage makes its own choice; say it in stages.{name}=['…']" for o in clashes])
            found[name] = _stage_config([*own, *overrides])
        except Faults as refusal:
            faults += [f"stages.{name}: {line}" for line in refusal.lines]
        finally:
            HydraConfig.instance().cfg = outer
    if faults:
        raise Faults(faults)
    return found


def _stage_config(overrides: list[str]) -> DictConfig:
    try:
        composed = compose_quietly(overrides)
    except REFUSALS as refusal:
        raise Faults(salvage(overrides, refusal)[1]) from refusal
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
        composed.stages = None
    return settle(composed, overrides).config


def is_list_of_choices(override: str) -> bool:
    """Whether a list is given where a group takes one choice: Hydra would mix the files."""
    return complaints.key_of(override) in SINGLE and override.partition("=")[2].lstrip().startswith("[")


def name_lists(config: DictConfig, catalogue: Callable[[], Catalogue]) -> None:
    """Say in `chosen` which methods a list chose, as `[a,b]`: Hydra names the choice of a single one only."""
    chosen = config.get("chosen")
    unnamed = [g for g in chosen if chosen[g] is None] if isinstance(chosen, DictConfig) else []
    if unnamed:
        families = catalogue().methods
        for group in unnamed:
            names = [str(m) for m in config.get("methods") or {} if families.get(str(m)) == group]
            chosen[group] = f"[{','.join(names)}]"


def drop_leftovers(
    config: DictConfig, overrides: Sequence[str], catalogue: Callable[[], Catalogue]
) -> tuple[list[str], list[str]]:
    """Take keys of methods that are not part of the run out of the config, in place.

    Returns faults, where the user named such a method or nobody knows it, and the names dropped without a
    word."""
    methods = config.get("methods")
    if not isinstance(methods, DictConfig):
        return [], []
    gone = [str(name) for name in methods if not _is_method(methods[name])]
    present = [str(name) for name in methods if name not in gone]
    faults: list[str] = []
    silent: list[str] = []
    if not gone:
        return faults, silent
    known = catalogue()
    for name in gone:
        named = [key for key in map(complaints.key_of, overrides) if key.startswith(f"methods.{name}")]
        if named or name not in known.methods:
            faults += [complaints.absent_method(key, name, present, known) for key in named or [f"methods.{name}"]]
        else:
            silent.append(name)
        with open_dict(methods):
            del methods[name]
    return faults, silent


def drop_unmeasured(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Take keys of measurements that are not part of the run out of the config, in place: a recipe may have set them,
    and the command line left the measurement out. Returns faults, where the user named such a key."""
    nodes = config.get("evaluate")
    if not isinstance(nodes, DictConfig):
        return []
    gone = [str(name) for name in nodes if not _is_method(nodes[name])]
    with open_dict(nodes):
        for name in gone:
            del nodes[name]
    return [
        f"{key}: this run has no {name}; add evaluate.{name}=NAME"
        for name in gone
        for key in map(complaints.key_of, overrides)
        if key.startswith(f"evaluate.{name}.")
    ]


def _is_method(node: Any) -> bool:
    return isinstance(node, DictConfig) and "_target_" in node


@contextmanager
def hydra_at(root: Path) -> Iterator[None]:
    """Hydra's compose interface over a folder of configs."""
    with initialize_config_dir(str(root.resolve()), version_base="1.3", job_name="roux"):
        yield


def compose_quietly(overrides: Sequence[str]) -> DictConfig:
    """Compose, Hydra's node included; a search path that does not exist is an error, not a warning."""
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


def salvage(overrides: list[str], refusal: Exception) -> tuple[DictConfig | None, list[str]]:
    """All that is wrong with a command that Hydra refused, and the config of what is right in it, if there is
    one."""
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
    own = _kept([o for o in values if not o.is_hydra_override()], lambda o: known.key_fault(o, base), faults)
    try:
        return compose_quietly([o.input_line or "" for o in [*groups, *hydra, *own]]), faults or _said(refusal, known)
    except REFUSALS as error:
        return None, [*faults, complaints.translate(error, known)]


def _said(refusal: Exception, known: Catalogue) -> list[str]:
    return [complaints.translate(refusal, known)]


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
