"""`stages.NAME.KEY=VALUE`: an override of one stage of a recipe.

Hydra knows nothing of it: in a recipe's file a stage is a list of overrides, which has no keys. A
single run takes these overrides out of the command before Hydra sees it. A multirun, whose jobs are
overrides that Hydra hands on, spells them as keys of a root of their own, which is in no config.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from omegaconf import DictConfig, open_dict

from foundation.errors import UserError, nearest
from recipes.config.groups import from_hydra
from recipes.config.keys import key_of

STAGE_KEY = re.compile(r"(?P<sign>[+~]*)stages\.(?P<stage>[^.=\[\]]+)\.(?P<rest>[^=]+(=.*)?)", re.S)
ROOTS = {"": "stage_keys", "+": "added_stage_keys", "++": "forced_stage_keys"}
IN_HYDRA = re.compile(rf"\+\+(?P<root>{'|'.join(ROOTS.values())})\.(?P<rest>.+)", re.S)
# what a run of several stages has once
COMMON = ("run_dir", "resume", "accept_changes", "dry_run", "recipe", "stages", "chosen")


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
    for stage, overrides in by_stage.items():
        for text in map(from_hydra, overrides):
            key = f"stages.{stage}.{key_of(text)}"
            if not stages:
                remedy = f"write {text}, or choose a recipe that has"
                errors.append(UserError(key, "this run has no stages", remedy))
            elif stage not in stages:
                remedy = nearest(stage, map(str, stages))
                errors.append(UserError(key, f"there is no stage '{stage}'", remedy))
            elif key_of(text).split(".")[0] in COMMON:
                errors.append(UserError(key, "is the same in all stages", f"write {text}"))
    return errors


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
