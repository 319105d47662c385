"""From a command line to a sound config, or to the list of everything that is wrong with it.

Hydra composes; what it refuses is said again in one line with the nearest right name, and since it
stops at its first refusal, the command is then taken apart so that all faults come at once. After
that `validation` looks at the tree.

A recipe may set keys of a method that the command line replaced (`recipe=fixmatch
semi_supervised=mean_teacher` leaves `methods.fixmatch.tau` behind): such leftovers are dropped,
unless the user named them, which is a mistake. In a recipe of stages it is one where no stage has
the method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from foundation.errors import UserError
from recipes.config import messages as complaints
from recipes.config.groups import CONFIGS, SINGLE, spoken, written
from recipes.config.messages import Catalogue, key_of, lacks, part_of
from recipes.config.overrides import REFUSALS, catalogue, compose_quietly, hydra_at, salvage
from recipes.config.validation import validate


class Faults(UserError):
    """Several mistakes at once, a line each."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("\n".join(lines))
        self.lines = list(lines)


@dataclass
class Command:
    """A sound command: the resolved config without Hydra's node, and the methods whose leftovers
    were dropped."""

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
            composed, faults = salvage(single, refusal, elsewhere=single)
        if composed is None or mixed:
            raise Faults(
                [
                    *faults,
                    *(f"{written(o)}: takes one choice, only families take a list" for o in mixed),
                ]
            )
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        try:
            return settle(composed, overrides, faults)
        finally:
            HydraConfig.instance().cfg = None


def settle(
    config: DictConfig,
    overrides: Sequence[str],
    faults: Sequence[str] = (),
    binding: Sequence[str] | None = None,
) -> Command:
    """Drop leftovers, validate, resolve. Raises `Faults`, those given among them.

    binding: overrides whose methods must be part of this run; None for all, unless it is a recipe
    of stages, which have methods of their own. Needs Hydra to be initialised, for the search path,
    and its config to be set, for `${hydra:…}`."""
    if binding is None:
        binding = [] if config.get("stages") else overrides
    leftovers, dropped = drop_leftovers(config, binding, lambda: catalogue(overrides))
    leftovers += drop_unmeasured(config, binding)
    name_lists(config, lambda: catalogue(overrides))
    faults = [*faults, *leftovers, *validate(config)]
    if faults:
        raise Faults(faults)
    OmegaConf.resolve(config)
    if config.get("stages"):
        config.stages = stage_configs(config.stages, overrides)
    return Command(config, dropped)


def stage_configs(stages: DictConfig, overrides: Sequence[str]) -> dict[str, DictConfig]:
    """The config of every stage of a recipe: the command, with the stage's own overrides before the
    user's, which win. What the user says of a method holds in the stages that have it, and one of
    them must.

    Raises `Faults` of all stages."""
    found: dict[str, DictConfig] = {}
    faults: list[str] = []
    known, outer = catalogue(overrides), HydraConfig.instance().cfg
    for name in map(str, stages):
        own = stages[name]
        chosen = {key for key in map(key_of, own) if key in known.groups}
        try:
            clashes = [o for o in overrides if key_of(o) in chosen]
            if clashes:
                raise Faults(
                    [
                        f"{o}: this stage makes its own choice; say it in stages.{name}=['…']"
                        for o in clashes
                    ]
                )
            found[name] = _stage_config(own, overrides)
        except Faults as refusal:
            faults += [f"stages.{name}: {line}" for line in refusal.lines]
        finally:
            HydraConfig.instance().cfg = outer
    if not faults:
        stray = [
            key
            for key in map(key_of, overrides)
            if all(lacks(stage, key) for stage in found.values())
        ]
        faults = [complaints.absent_everywhere(key, list(found.values()), known) for key in stray]
    if faults:
        raise Faults(faults)
    return found


def _stage_config(own: Sequence[str], users: Sequence[str]) -> DictConfig:
    overrides = [*own, *users]
    composed: DictConfig | None
    try:
        composed = compose_quietly(overrides)
    except REFUSALS as refusal:
        composed, faults = salvage(overrides, refusal, elsewhere=users)
        if composed is None or faults:
            raise Faults(faults) from refusal
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
        composed.stages = None
    return settle(composed, overrides, binding=own).config


def is_list_of_choices(override: str) -> bool:
    """Whether a list is given where a group takes one choice: Hydra would mix the files."""
    return key_of(override) in SINGLE and override.partition("=")[2].lstrip().startswith("[")


def name_lists(config: DictConfig, catalogue: Callable[[], Catalogue]) -> None:
    """Say in `chosen` which methods a list chose, as `[a,b]`: Hydra names the choice of a single
    one only."""
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

    Returns faults, where the user named such a method or nobody knows it, and the names dropped
    without a word."""
    methods = config.get("methods")
    if not isinstance(methods, DictConfig):
        return [], []
    names = list(map(str, methods))
    gone = [name for name in names if lacks(config, f"methods.{name}")]
    present = [name for name in names if name not in gone]
    faults: list[str] = []
    silent: list[str] = []
    if not gone:
        return faults, silent
    known = catalogue()
    for name in gone:
        named = [key for key in map(key_of, overrides) if part_of(key) == f"methods.{name}"]
        if named or name not in known.methods:
            faults += [
                complaints.absent_method(key, name, present, known)
                for key in named or [f"methods.{name}"]
            ]
        else:
            silent.append(name)
        with open_dict(methods):
            del methods[name]
    return faults, silent


def drop_unmeasured(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Take keys of measurements that are not part of the run out of the config, in place: a recipe
    may have set them, and the command line left the measurement out. Returns faults, where the user
    named such a key."""
    nodes = config.get("evaluate")
    if not isinstance(nodes, DictConfig):
        return []
    gone = [name for name in map(str, nodes) if lacks(config, f"evaluate.{name}")]
    with open_dict(nodes):
        for name in gone:
            del nodes[name]
    return [
        f"{key}: this run has no {name}; add evaluate.{name}=NAME"
        for name in gone
        for key in map(key_of, overrides)
        if part_of(key) == f"evaluate.{name}"
    ]
