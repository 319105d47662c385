"""`stages.NAME.KEY=VALUE`: an override of one stage of a recipe.

Hydra knows nothing of it: in a recipe's file a stage is a list of overrides, which has no keys. A
single run takes these overrides out of the command before Hydra sees it. A multirun, whose jobs are
overrides that Hydra hands on, spells them as keys of a root of their own, which is in no config.

`stages.NAME.repeat.times=VALUE` and `stages.NAME.program.KEY=VALUE` change a loop and a program.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from foundation.errors import UserError, nearest
from recipes.config.groups import from_hydra
from recipes.config.keys import key_of
from recipes.config.overrides import parse
from recipes.config.stage_forms import known_names, programs

STAGE_KEY = re.compile(r"(?P<sign>[+~]*)stages\.(?P<stage>[^.=\[\]]+)\.(?P<rest>[^=]+(=.*)?)", re.S)
ROOTS = {"": "stage_keys", "+": "added_stage_keys", "++": "forced_stage_keys"}
IN_HYDRA = re.compile(rf"\+\+(?P<root>{'|'.join(ROOTS.values())})\.(?P<rest>.+)", re.S)
# what a run of several stages has once
COMMON = ("run_dir", "resume", "accept_changes", "dry_run", "recipe", "stages", "chosen")
FORM = ("repeat", "program")  # keys of a stage's own node, not of its run


def split_stage_keys(overrides: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """(overrides of all stages, stage -> overrides of this stage alone, without their prefix)."""
    common: list[str] = []
    by_stage: dict[str, list[str]] = {}
    for text in overrides:
        match = STAGE_KEY.fullmatch(text)
        if match:
            by_stage.setdefault(match["stage"], []).append(match["sign"] + match["rest"])
        else:
            common.append(text)
    return common, by_stage


def check_stage_keys(by_stage: Mapping[str, Sequence[str]], config: DictConfig) -> list[UserError]:
    """Errors of overrides that no stage of the run can take."""
    errors: list[UserError] = []
    stages = config.get("stages")
    if stages is not None and not isinstance(stages, DictConfig):
        return errors  # validation says so
    known = known_names(as_written(stages))
    for stage, overrides in by_stage.items():
        for text in map(from_hydra, overrides):
            key = f"stages.{stage}.{key_of(text)}"
            if not stages:
                remedy = f"write {text}, or choose a recipe that has"
                errors.append(UserError(key, "this run has no stages", remedy))
            elif stage not in known:
                remedy = nearest(stage, known)
                errors.append(UserError(key, f"there is no stage '{stage}'", remedy))
            elif known[stage] is not None:
                remedy = f"its settings are stages.{stage}.program.KEY"
                errors.append(UserError(key, f"'{stage}' is a program and no run", remedy))
            elif key_of(text).split(".")[0] in COMMON:
                errors.append(UserError(key, "is the same in all stages", f"write {text}"))
    return errors


def as_written(stages: DictConfig | None) -> dict[str, Any]:
    """The stages as plain containers, interpolations as they are."""
    tree = OmegaConf.to_container(stages) if isinstance(stages, DictConfig) else {}
    assert isinstance(tree, dict)
    return {str(name): entry for name, entry in tree.items()}


# -- keys of a stage's own node --------------------------------------------------------------------
def set_form_keys(
    by_stage: Mapping[str, Sequence[str]], config: DictConfig
) -> tuple[dict[str, list[str]], list[UserError]]:
    """Set `repeat.KEY` and `program.KEY` in the nodes of their stages, in place. Returns the other
    overrides by stage, and the errors of those that no stage has."""
    others: dict[str, list[str]] = {}
    errors: list[UserError] = []
    stages = config.get("stages")
    for stage, texts in by_stage.items():
        for text in texts:
            part, _, rest = key_of(text).partition(".")
            if part not in FORM or not rest or not isinstance(stages, DictConfig):
                others.setdefault(stage, []).append(text)
                continue
            holder = node_of(stages, stage, part)
            if holder is None:
                errors.append(no_such_form(stage, part, text, as_written(stages)))
                continue
            with open_dict(holder):
                OmegaConf.update(holder, key_of(text), parse(text).value(), force_add=True)
    return others, errors


def node_of(stages: DictConfig, name: str, part: str) -> DictConfig | None:
    """The node of a stage that has this part; a stage that is not repeated yet can be."""
    if part == "repeat":
        return repeatable(stages, name)
    candidates = [stages.get(name)]
    for entry in stages.values():
        if isinstance(entry, DictConfig) and isinstance(entry.get("stages"), DictConfig):
            candidates.append(entry.stages.get(name))
    for node in candidates:
        if isinstance(node, DictConfig) and isinstance(node.get(part), DictConfig):
            return node
    return None


def repeatable(stages: DictConfig, name: str) -> DictConfig | None:
    """The node of a stage outside loops, or of a loop."""
    if isinstance(stages.get(name), ListConfig):
        with open_dict(stages):
            stages[name] = {"overrides": stages[name]}
    node = stages.get(name)
    return node if isinstance(node, DictConfig) else None


def no_such_form(stage: str, part: str, text: str, stages: Mapping[str, Any]) -> UserError:
    key = f"stages.{stage}.{key_of(text)}"
    if part == "repeat":
        problem = f"there is no stage or loop '{stage}' to repeat"
        return UserError(key, problem, nearest(stage, stages))
    known = [name for name, _, _ in programs(stages)]
    return UserError(key, f"there is no program '{stage}'", nearest(stage, known))


# -- in Hydra's words ------------------------------------------------------------------------------
def stage_keys_to_hydra(overrides: Sequence[str]) -> list[str]:
    """The same with a prefix that Hydra takes: `++stage_keys.NAME.KEY=VALUE`."""
    spelled = []
    for text in overrides:
        match = STAGE_KEY.fullmatch(text)
        if match and match["sign"] in ROOTS:
            text = f"++{ROOTS[match['sign']]}.{match['stage']}.{match['rest']}"
        spelled.append(text)
    return spelled


def stage_keys_from_hydra(override: str) -> str:
    """The inverse of `stage_keys_to_hydra`, of one override, and of an attack's choice."""
    override = re.sub(r"^\+?attack@(?=methods\.)", "", override)
    match = IN_HYDRA.fullmatch(override)
    if not match:
        return override
    sign = {root: sign for sign, root in ROOTS.items()}[match["root"]]
    return f"{sign}stages.{match['rest']}"


def drop_stage_keys(config: DictConfig) -> None:
    """Take what `stage_keys_to_hydra` added out of a composed config, in place."""
    with open_dict(config):
        for root in ROOTS.values():
            config.pop(root, None)
