"""The error for a key that a composed config does not have: the first line of `CASES` that applies
says what the user may have meant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError, did_you_mean, listed, nearest, nearest_name
from recipes.config.catalogue import Catalogue
from recipes.config.groups import from_hydra
from recipes.config.keys import PARTS, all_keys, has_key, join
from recipes.config.messages import several_values
from recipes.config.usual_names import by_usual_name

# where a key of other tools may have been guessed
SECTIONS_OF_SETTINGS = ("data", "network", "optimizer", "scheduler", "trainer")
SHOWN = 3  # keys of the same name elsewhere that a message lists


@dataclass(frozen=True)
class UnknownKey:
    """key, value: as the user wrote them. tree: the config without them. known: all groups."""

    key: str
    value: str
    tree: DictConfig
    known: Catalogue

    @cached_property
    def names(self) -> list[str]:
        return self.key.split(".")

    @property
    def section(self) -> str:
        return self.names[0]

    @property
    def entry(self) -> str:
        """The second name: a method, a logger, a measurement; empty at the root."""
        return self.names[1] if len(self.names) > 1 else ""

    @property
    def parent_key(self) -> str:
        return ".".join(self.names[:-1])

    @cached_property
    def parent(self) -> DictConfig | None:
        node = OmegaConf.select(self.tree, self.parent_key) if self.parent_key else None
        return node if isinstance(node, DictConfig) else None

    @cached_property
    def keys(self) -> list[str]:
        """All keys of the run."""
        return [key for key in all_keys(self.tree) if not key.startswith("hydra.")]

    @cached_property
    def namesakes(self) -> list[str]:
        """Keys whose last name is the same."""
        return [key for key in self.keys if key.split(".")[-1] == self.names[-1]]

    @cached_property
    def usual(self) -> str:
        """The remedy if other tools have a setting of this name and none of ours is called so."""
        if self.namesakes:
            return ""
        return by_usual_name(self.names[-1], [*self.keys, *self.known.groups])

    @property
    def elsewhere(self) -> str:
        """A question naming the namesakes; empty if there are none."""
        if not self.namesakes:
            return ""
        listed = [repr(key) for key in self.namesakes[:SHOWN]]
        return f"did you mean {' or '.join(listed)}?"

    def error(self, remedy: str, problem: str = "unknown key") -> UserError:
        return UserError(self.key, problem, remedy)


# -- predicates ------------------------------------------------------------------------------------
def is_of_absent_method(case: UnknownKey) -> bool:
    present = case.tree.get("methods") or {}
    return case.section == "methods" and bool(case.entry) and case.entry not in present


def is_of_absent_logger(case: UnknownKey) -> bool:
    return case.section == "logger" and case.entry in case.known.groups.get("logger", ())


def is_of_absent_measurement(case: UnknownKey) -> bool:
    present = case.tree.get("evaluate") or {}
    return case.section == "evaluate" and bool(case.entry) and case.entry not in present


def is_in_free_mapping(case: UnknownKey) -> bool:
    """Whether the key's parent is a mapping that takes any key, as `network.options` does."""
    free = case.parent is not None and "_target_" not in case.parent
    return free and case.section != "methods" and len(case.names) > 2


def has_a_usual_name(case: UnknownKey) -> bool:
    """Whether other tools call a setting so, at the root or in the section where ours is."""
    return bool(case.usual) and (len(case.names) == 1 or case.section in SECTIONS_OF_SETTINGS)


def is_new_at_the_root(case: UnknownKey) -> bool:
    return len(case.names) == 1 and not case.namesakes


def has_a_parent(case: UnknownKey) -> bool:
    return case.parent is not None


def always(case: UnknownKey) -> bool:
    return True


# -- errors ----------------------------------------------------------------------------------------
def absent_method(case: UnknownKey) -> UserError:
    present = list(map(str, case.tree.get("methods") or {}))
    return error_of_absent_method(case.key, case.entry, present, case.known)


def absent_logger(case: UnknownKey) -> UserError:
    problem = f"logger '{case.entry}' is not part of this run"
    return case.error(f"add logger={case.entry}", problem)


def absent_measurement(case: UnknownKey) -> UserError:
    group = f"evaluate/{case.entry}"
    offers = [name for name in case.known.groups.get(group, ()) if name != "none"]
    if offers:
        remedy = f"add evaluate.{case.entry}=NAME, {listed(case.entry, offers)}"
        return case.error(remedy, f"this run has no {case.entry}")
    groups = [from_hydra(name) for name in case.known.groups if name.startswith("evaluate/")]
    return case.error(nearest(f"evaluate.{case.entry}", groups))


def add_with_a_plus(case: UnknownKey) -> UserError:
    return case.error(f"to add it write +{case.key}={case.value}")


def by_another_name(case: UnknownKey) -> UserError:
    return case.error(case.usual)


def near_the_root(case: UnknownKey) -> UserError:
    roots = [key for key in case.keys if "." not in key and key != "hydra"]
    known = sorted({*case.known.groups, *roots})
    return case.error(nearest(case.key, known))


def near_a_sibling(case: UnknownKey) -> UserError:
    """By the last name alone: long common beginnings make any two keys close."""
    siblings = [str(name) for name in case.parent or {} if not str(name).startswith("_")]
    near = nearest_name(case.names[-1], siblings)
    if near:
        return case.error(did_you_mean(join(case.parent_key, near)))
    return case.error(case.elsewhere or nearest(case.names[-1], siblings))


def near_any_key(case: UnknownKey) -> UserError:
    near = case.elsewhere or did_you_mean(nearest_name(case.key, case.keys))
    return case.error(near or "--cfg job prints all keys")


CASES: Sequence[tuple[Callable[[UnknownKey], bool], Callable[[UnknownKey], UserError]]] = (
    (is_of_absent_method, absent_method),
    (is_of_absent_logger, absent_logger),
    (is_of_absent_measurement, absent_measurement),
    (is_in_free_mapping, add_with_a_plus),
    (has_a_usual_name, by_another_name),
    (is_new_at_the_root, near_the_root),
    (has_a_parent, near_a_sibling),
    (always, near_any_key),
)


def unknown_key(key: str, value: str, tree: DictConfig, known: Catalogue) -> UserError:
    case = UnknownKey(key, value, tree, known)
    return next(error_of(case) for applies, error_of in CASES if applies(case))


# -- the same for overrides, and for methods that are not there ------------------------------------
def check_key(override: Override, tree: DictConfig, known: Catalogue) -> None:
    """Raise `UserError` if an override sets a key that the composed tree does not have."""
    key = override.key_or_group
    if override.is_sweep_override():
        raise several_values(override)
    exists = has_key(tree, key)
    # a key's value may be an interpolation that resolves only once Hydra runs: the node is looked
    # at only where it matters
    if override.is_add() and exists and not extends_value(override, tree):
        raise UserError(str(override.input_line), "the key exists", "write it without the +")
    added = override.is_add() or override.is_force_add()
    if override.package is not None or not (exists or added):
        raise unknown_key(key, str(override.value()), tree, known)


def extends_value(override: Override, tree: DictConfig) -> bool:
    """Whether adding to a key that exists means something: it extends a list or mapping, or
    replaces null."""
    if isinstance(override.value(), dict | list):
        return True
    parent, _, name = override.key_or_group.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    return isinstance(node, DictConfig) and node._get_node(name)._is_none()  # type: ignore[union-attr]


def error_of_absent_method(
    key: str, name: str, present: Sequence[str], known: Catalogue
) -> UserError:
    """The error for a key under a method that is not part of the run, with the remedy."""
    family = known.methods.get(name)
    if family:
        beside = [method for method in present if known.methods.get(method) == family]
        choice = f"[{','.join([*beside, name])}]" if beside else name
        problem = f"method '{name}' is not part of this run"
        return UserError(key, problem, f"add {family}={choice}")
    here = f"methods of this run: {', '.join(present) or 'none'}"
    near = nearest_name(name, present)
    if near:
        return UserError(key, f"there is no method '{name}' in this run", did_you_mean(near))
    for other, family in known.methods.items():
        if nearest_name(name, [other]):
            remedy = f"{did_you_mean(other)} add {family}={other} ({here})"
            return UserError(key, f"there is no method '{name}'", remedy)
    return UserError(key, f"there is no method '{name}'", here)


def absent_in_all_stages(key: str, stages: Sequence[DictConfig], known: Catalogue) -> UserError:
    """The error for a key of a method or a measurement that no stage of a recipe has."""
    section, name, *_ = key.split(".")
    family = known.methods.get(name) if section == "methods" else None
    if family:
        choice = f"{family}={name}"
        problem = f"no stage has the method '{name}'"
        return UserError(key, problem, f"add {choice}, or for one stage stages.NAME.{choice}")
    present: dict[str, dict[str, dict[str, str]]] = {part: {} for part in PARTS}
    for stage in stages:
        for part in PARTS:
            present[part] |= {str(entry): {} for entry in stage.get(part) or {}}
    return unknown_key(key, "…", OmegaConf.create(present), known)
