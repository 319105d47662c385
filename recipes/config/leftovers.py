"""Steps of settling a config: names of chosen methods, and keys of methods and measurements that
are not part of the run."""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig, open_dict

from foundation.errors import UserError
from recipes.config.catalogue import Catalogue
from recipes.config.keys import key_of, missing_part, part_of
from recipes.config.unknown_key import error_of_absent_method

ListGroups = Callable[[], Catalogue]


def name_lists(config: DictConfig, known: ListGroups) -> None:
    """Say in `chosen` which methods a list chose, as `[a,b]`: Hydra names the choice of a single
    one only."""
    chosen = config.get("chosen")
    if not isinstance(chosen, DictConfig):
        return
    methods = list(map(str, config.get("methods") or {}))
    for group in [group for group in chosen if chosen[group] is None]:
        family_of = known().methods
        names = [method for method in methods if family_of.get(method) == group]
        chosen[group] = f"[{','.join(names)}]"


def drop_leftovers(
    config: DictConfig, overrides: Sequence[str], known: ListGroups
) -> tuple[list[str], list[UserError]]:
    """Take keys of methods that are not part of the run out of the config, in place.

    Returns the names that were dropped without a word, and errors, if the user named such a method
    or nobody knows it."""
    methods = config.get("methods")
    if not isinstance(methods, DictConfig):
        return [], []
    names = list(map(str, methods))
    absent = [name for name in names if missing_part(config, f"methods.{name}")]
    present = [name for name in names if name not in absent]
    dropped: list[str] = []
    errors: list[UserError] = []
    for name in absent:
        named = [key for key in map(key_of, overrides) if part_of(key) == f"methods.{name}"]
        if named or name not in known().methods:
            keys = named or [f"methods.{name}"]
            errors += [error_of_absent_method(key, name, present, known()) for key in keys]
        else:
            dropped.append(name)
        with open_dict(methods):
            del methods[name]
    return dropped, errors


def drop_unmeasured(config: DictConfig, overrides: Sequence[str]) -> list[UserError]:
    """Take keys of measurements that are not part of the run out of the config, in place: a recipe
    may have set them, and the command line left the measurement out. Returns errors, if the user
    named such a key."""
    nodes = config.get("evaluate")
    if not isinstance(nodes, DictConfig):
        return []
    errors: list[UserError] = []
    for name in list(map(str, nodes)):
        if not missing_part(config, f"evaluate.{name}"):
            continue
        with open_dict(nodes):
            del nodes[name]
        for key in map(key_of, overrides):
            if part_of(key) == f"evaluate.{name}":
                remedy = f"add evaluate.{name}=NAME"
                errors.append(UserError(key, f"this run has no {name}", remedy))
    return errors
