"""Programs among the stages of a recipe: their settings, validated as those of any target."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError
from recipes.config.signatures import find_target
from recipes.config.stage_forms import Node, form_errors, programs, sound, written_out
from recipes.config.validation import plain, target_errors

# keys of a run that its programs have as well
SHARED = ("seed", "run_dir", "dry_run", "accept_changes", "recipe")


def program_errors(config: DictConfig) -> list[UserError]:
    """Errors of the programs' settings, and of loops that wait for one that never stops; of stages
    without `form_errors`."""
    stages = config.get("stages")
    if not isinstance(stages, DictConfig):
        return []
    errors: list[UserError] = []
    tree = plain(stages, "stages", errors)
    if not sound(tree) or form_errors(tree):
        return []
    for form in written_out(tree):
        if form.program is not None:
            errors += target_errors(f"stages.{form.names[0]}.program", form.program)
    wrong = {error.key.split(".")[1] for error in errors if error.key}
    for name, node, ends_loop in programs(tree):
        if ends_loop and name not in wrong and not may_stop(node):
            problem = f"'{name}' never says stop, so the loop has no use for it"
            errors.append(UserError(f"stages: until={name}", problem, "leave `until` out"))
    return errors


def may_stop(node: Node) -> bool:
    return bool(getattr(find_target(node["_target_"]), "may_stop", True))


def program_config(node: Node, config: DictConfig) -> DictConfig:
    """The config of a stage that is a program. config: of the recipe, resolved."""
    shared: dict[str, Any] = {key: config.get(key) for key in SHARED}
    return OmegaConf.create({**shared, "resume": None, "monitor": None, "program": node})
