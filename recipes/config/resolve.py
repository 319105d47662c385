"""From a command line to a sound config, or to everything that is wrong with it. One step after the
other; each gives a config and adds to the errors:

    argv's overrides
      | renamed          keys of earlier versions become today's, a line names them
      | stage_keys       `stages.NAME.KEY=VALUE` is set aside for its stage
      | groups           `evaluate.attack=pgd` becomes `evaluate/attack=pgd`
      | choices          of a group one, in a list each once
      | overrides        Hydra composes; if it refuses, all errors are collected
      | leftovers        methods and measurements that are not part of the run are dropped
      | chosen           lists of methods get their names
      | own_data         the cuts of a recipe are not for the user's data
      | data_groups      views that the command chooses replace those of the set
      | named            all names are known: a first line, or errors, before any class is imported
      | whole_numbers    1e3 becomes 1000 where a whole number is expected
      | validation       every value against the signature of what it is given to
      | resolve          interpolations become values
      | stages           the same steps for the overrides of each stage
    Command: config, what was dropped, lines to print

A recipe may set keys of a method that the command line replaced (`recipe=fixmatch
semi_supervised=mean_teacher` leaves `methods.fixmatch.tau` behind): such leftovers are dropped,
unless the user named them, which is a mistake. In a recipe of stages it is one if no stage has the
method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from foundation.errors import ConfigErrors, UserError, first_line, raise_all
from recipes.config.choices import choice_errors, is_list_of_choices
from recipes.config.composing import compose_quietly, hydra_at
from recipes.config.data_groups import misplaced_choices, replace_views
from recipes.config.groups import CONFIGS, from_hydra, to_hydra
from recipes.config.keys import key_of, missing_part
from recipes.config.leftovers import ListGroups, drop_leftovers, drop_unmeasured, name_lists
from recipes.config.overrides import REFUSALS, catalogue, collect_errors
from recipes.config.own_data import keep_own_data, one_choice_of_labels
from recipes.config.renamed import rename_in_config, renamed_overrides
from recipes.config.stage_forms import StageForm, form_errors, loops_of, written_out
from recipes.config.stage_keys import (
    as_written,
    check_stage_keys,
    set_form_keys,
    split_stage_keys,
    stage_keys_from_hydra,
)
from recipes.config.stage_programs import program_config, program_errors
from recipes.config.unknown_key import absent_in_all_stages
from recipes.config.validation import ROOT, validate
from recipes.config.whole_numbers import write_whole_numbers

StageKeys = Mapping[str, Sequence[str]]
WEIGHTS = "network.checkpoint"
# called with the config and the errors so far, once all names are checked
Named = Callable[[DictConfig, list[UserError]], None]


def ignore(config: DictConfig, errors: list[UserError]) -> None:
    """Nobody waits for the names."""


@dataclass
class Command:
    """A sound command. config: resolved, without Hydra's node. dropped: methods whose leftovers
    were dropped. lines: to print, about keys that have other names now."""

    config: DictConfig
    dropped: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def resolve_command(
    overrides: Sequence[str], root: Path = CONFIGS, named: Named = ignore
) -> Command:
    """Compose and validate one run. Raises `ConfigErrors` with a line for each mistake.

    named: called before the first class is imported, which takes seconds: mistakes
    known by then are reported at once."""
    current, lines = renamed_overrides(map(stage_keys_from_hydra, overrides))
    common, by_stage = split_stage_keys(current)
    common = to_hydra(common, root)
    stage_keys = {stage: to_hydra(texts, root) for stage, texts in by_stage.items()}
    wrong_choices = choice_errors(common, root)
    with hydra_at(root):
        composed, errors = compose_command(common)
        errors = [*wrong_choices, *errors]
        HydraConfig.instance().set_config(composed)
        drop_hydra(composed)
        try:
            command = settle(composed, common, stage_keys, errors, named=named)
        finally:
            HydraConfig.instance().cfg = None
    command.lines = list(dict.fromkeys([*lines, *command.lines]))
    return command


def compose_command(overrides: Sequence[str]) -> tuple[DictConfig, list[UserError]]:
    """What Hydra composes, with its own node; and the errors of what it refused, which is left out.
    Raises `ConfigErrors` if nothing can be composed."""
    lists = [text for text in overrides if is_list_of_choices(text)]
    others = [text for text in overrides if text not in lists]
    errors: list[UserError] = []
    composed: DictConfig | None
    try:
        composed = compose_quietly(others)
    except REFUSALS as refusal:
        composed, errors = collect_errors(others, refusal, elsewhere=others)
    # Hydra would mix the files of such a list: nothing can be said about what it composes
    one_choice = "takes one choice, only families take a list"
    list_errors = [UserError(from_hydra(text), one_choice) for text in lists]
    if composed is None or list_errors:
        raise ConfigErrors([*errors, *list_errors])
    return composed, errors


def drop_hydra(composed: DictConfig) -> None:
    with open_dict(composed):
        del composed["hydra"]


def settle(
    config: DictConfig,
    overrides: Sequence[str],
    stage_keys: StageKeys | None = None,
    errors: Sequence[UserError] = (),
    binding: Sequence[str] | None = None,
    named: Named = ignore,
) -> Command:
    """A sound command from a composed config, which is changed in place. Raises `ConfigErrors`, the
    given errors among them.

    stage_keys: stage -> overrides of it alone. binding: overrides whose methods must be part of
    this run; None for all, unless it is a recipe of stages, which have methods of their own. Needs
    Hydra to be initialised, for the search path, and its config to be set, for `${hydra:…}`."""
    known = cache(lambda: catalogue(overrides))
    unreadable = unreadable_stages(config)
    if unreadable:
        raise_all([*errors, *unreadable])
    if binding is None:
        binding = [] if config.get("stages") else overrides
    lines = rename_in_config(config, overrides)
    dropped, method_errors = drop_leftovers(config, binding, known)
    measurement_errors = drop_unmeasured(config, binding)
    name_lists(config, known)
    one_choice_of_labels(config, overrides)
    lines += keep_own_data(config, overrides, compose_quietly)
    lines += replace_views(config, overrides, compose_quietly)
    data_errors = misplaced_choices(config, overrides)
    stage_keys, key_errors = set_form_keys(stage_keys or {}, config)
    stage_errors = [*key_errors, *check_stage_keys(stage_keys, config)]
    stage_errors += form_errors(as_written(config.get("stages")))
    name_errors = [*errors, *method_errors, *measurement_errors, *stage_errors, *data_errors]
    named(config, name_errors)
    write_whole_numbers(config, ROOT)
    others = [] if data_errors else [*validate(config), *program_errors(config)]
    raise_all([*name_errors, *others])
    OmegaConf.resolve(config)
    if config.get("stages"):
        lines += settle_stages(config, overrides, stage_keys, known)
    return Command(config, dropped, lines)


# -- stages ----------------------------------------------------------------------------------------
def unreadable_stages(config: DictConfig) -> list[UserError]:
    """Stages that are an interpolation of nothing: all of `settle` reads them."""
    try:
        config.get("stages")
    except InterpolationResolutionError as error:
        return [UserError("stages", first_line(error), "expected null or a mapping of stages")]
    return []


def settle_stages(
    config: DictConfig, overrides: Sequence[str], stage_keys: StageKeys, known: ListGroups
) -> list[str]:
    """Replace the stages by the config of each, in place; `loops` says which are rounds of one.
    Returns lines to print. Raises `ConfigErrors` of all stages."""
    forms = written_out(as_written(config.stages))
    stages, lines = stage_configs(forms, config, overrides, stage_keys, known)
    loops = loops_of(forms)
    config.stages = stages
    if loops:
        with open_dict(config):
            config.loops = loops
    return lines


def stage_configs(
    forms: Sequence[StageForm],
    config: DictConfig,
    overrides: Sequence[str],
    stage_keys: StageKeys,
    known: ListGroups,
) -> tuple[dict[str, DictConfig], list[str]]:
    """The config of every stage of a recipe, and lines to print. Raises `ConfigErrors` of all.

    A stage's own overrides come first, then those of the command, then those that the command gives
    to this stage alone: the later wins. A key of a method holds in the stages that have the
    method, and one of them must."""
    configs: dict[str, DictConfig] = {}
    errors: list[UserError] = []
    lines: list[str] = []
    hydra_config = HydraConfig.instance().cfg
    for form in forms:
        if form.program is not None:
            configs[form.name] = program_config(form.program, config)
            continue
        alone = [text for name in form.names for text in stage_keys.get(name, ())]
        try:
            command = stage_command(form, overrides, alone, known)
            configs[form.name] = command.config
            lines += command.lines
        except UserError as refusal:
            errors += [error.within(f"stages.{form.name}") for error in refusal.errors]
        finally:
            HydraConfig.instance().cfg = hydra_config
    runs = [configs[form.name] for form in forms if form.program is None and form.name in configs]
    if not errors:
        errors = errors_of_absent_parts(overrides, runs, known)
    raise_all(errors)
    return configs, lines


def stage_command(
    form: StageForm, common: Sequence[str], alone: Sequence[str], known: ListGroups
) -> Command:
    """The command of one stage. form: with the overrides in the recipe's file. common: of the
    command. alone: of the command, for this stage."""
    own, lines = renamed_overrides(form.overrides)
    groups = known().groups
    # of two choices of one group Hydra would take both files
    chosen_alone = {key_of(text) for text in alone} & groups.keys()
    own = [text for text in own if key_of(text) not in chosen_alone]
    common = [text for text in common if key_of(text) not in chosen_alone | handed_on(own)]
    chosen = {key_of(text) for text in own} & groups.keys()
    clashes = [text for text in common if key_of(text) in chosen]
    remedy = f"say it by stages.{form.name}."
    raise_all([UserError(t, "this stage makes its own choice", f"{remedy}{t}") for t in clashes])
    # what the recipe sets of methods that the command replaced is a leftover
    optional = [*own, *common] if chosen_alone else common
    command = compose_stage([*own, *common, *alone], optional)
    command.lines = lines + command.lines
    return command


def handed_on(own: Sequence[str]) -> set[str]:
    """`network.checkpoint`, where a stage takes it from an earlier one: what the command names is
    where the recipe begins."""
    texts = [text for text in own if key_of(text) == WEIGHTS]
    return {WEIGHTS} if any("{" in text for text in texts) else set()


def compose_stage(overrides: Sequence[str], optional: Sequence[str]) -> Command:
    """optional: overrides that are left out if this stage does not have their method."""
    composed: DictConfig | None
    try:
        composed = compose_quietly(overrides)
    except REFUSALS as refusal:
        composed, errors = collect_errors(list(overrides), refusal, elsewhere=optional)
        if composed is None or errors:
            raise ConfigErrors(errors) from refusal
    HydraConfig.instance().set_config(composed)
    drop_hydra(composed)
    composed.stages = None
    binding = [text for text in overrides if text not in optional]
    return settle(composed, overrides, binding=binding)


def errors_of_absent_parts(
    overrides: Sequence[str], stages: Sequence[DictConfig], known: ListGroups
) -> list[UserError]:
    """Errors of keys of methods and measurements that no stage has."""
    keys = [
        key for key in map(key_of, overrides) if all(missing_part(stage, key) for stage in stages)
    ]
    return [absent_in_all_stages(key, stages, known()) for key in keys]
