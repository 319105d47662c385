"""Hydra's refusals in one line each: the key, what was found, the nearest right name or the
remedy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from foundation.errors import UserError, nearest
from recipes.config.groups import NOT_FAMILIES, written
from recipes.config.signatures import suggestion


@dataclass(frozen=True)
class Catalogue:
    """All groups that a command may choose from, each with its options."""

    groups: Mapping[str, Sequence[str]]

    @property
    def methods(self) -> dict[str, str]:
        """Method -> family."""
        families = {
            g: names for g, names in self.groups.items() if g.split("/")[0] not in NOT_FAMILIES
        }
        return {
            name: family for family, names in families.items() for name in names if name != "none"
        }

    def is_group(self, override: Override) -> bool:
        group = override.key_or_group
        return group in self.groups or group.startswith("hydra/")

    def choice_fault(self, override: Override) -> None:
        """Raise `UserError` where an override chooses what its group does not offer."""
        group, line = override.key_or_group, written(override.input_line or "")
        if group.startswith("hydra/") or override.is_delete():
            return
        offers = list(self.groups[group])
        if override.is_sweep_override():
            raise UserError(sweep(override))
        value = override.value()
        if value is None or value == []:
            raise UserError(
                f"{line}: choose a name for {written(group)}; known: {', '.join(offers)}"
            )
        if override.is_add() and override.package is None:
            raise UserError(f"{line}: '{written(group)}' has a choice already; leave out the +")
        for name in value if isinstance(value, list) else [value]:
            if str(name) not in offers:
                raise UserError(self.no_option(group, str(name)))

    def no_option(self, group: str, name: str) -> str:
        more = (
            "; any other of timm's: optimizer=named optimizer.name=NAME"
            if group == "optimizer"
            else ""
        )
        family = self.methods.get(name)
        if family:
            return f"{group}={name}: '{name}' is of another family; write {family}={name}"
        kind, near = group.rpartition("/")[2], nearest(name, self.groups.get(group, ()))
        return f"{written(group)}={name}: there is no {kind} '{name}'; {near}{more}"

    def key_fault(self, override: Override, base: DictConfig) -> None:
        """Raise `UserError` where an override sets a key that the composed tree does not have."""
        key = override.key_or_group
        if override.is_sweep_override():
            raise UserError(sweep(override))
        exists = has_key(base, key)
        # a key's value may be an interpolation that resolves only once Hydra runs: looked at where
        # it matters
        if override.is_add() and exists and not fills(override, base):
            raise UserError(f"{override.input_line}: the key exists; write it without the +")
        if (
            not (exists or override.is_add() or override.is_force_add())
            or override.package is not None
        ):
            raise UserError(self.unknown_key(key, str(override.value()), base))

    def unknown_key(self, key: str, value: str, base: DictConfig) -> str:
        """One line about a key that is not there."""
        parts = key.split(".")
        methods = base.get("methods") or {}
        if parts[0] == "methods" and len(parts) > 1 and parts[1] not in methods:
            return absent_method(key, parts[1], list(map(str, methods)), self)
        if parts[0] == "logger" and len(parts) > 1 and parts[1] in self.groups.get("logger", ()):
            return f"{key}: logger '{parts[1]}' is not part of this run; add logger={parts[1]}"
        if (
            parts[0] == "evaluate"
            and len(parts) > 1
            and parts[1] not in (base.get("evaluate") or {})
        ):
            return self.unknown_measurement(key, parts)
        keys = [k for k in all_keys(base) if not k.startswith("hydra.")]
        parent = OmegaConf.select(base, ".".join(parts[:-1])) if len(parts) > 1 else None
        if (
            isinstance(parent, DictConfig)
            and "_target_" not in parent
            and parts[0] != "methods"
            and len(parts) > 2
        ):
            return f"{key}: unknown key; to add it write +{key}={value}"
        same = [k for k in keys if k.split(".")[-1] == parts[-1]]
        if "." not in key and not same:
            top = sorted({*self.groups, *(k for k in keys if "." not in k and k != "hydra")})
            return f"{key}: unknown key; {suggestion(key, top) or 'known: ' + ', '.join(top)}"
        if isinstance(parent, DictConfig):
            siblings = [str(name) for name in parent if not str(name).startswith("_")]
            near = close_key(parts[-1], ".".join(parts[:-1]), siblings)
            return f"{key}: unknown key; {near or _elsewhere(same) or nearest(parts[-1], siblings)}"
        return (
            f"{key}: unknown key; "
            f"{_elsewhere(same) or suggestion(key, keys) or '--cfg job prints all keys'}"
        )

    def unknown_measurement(self, key: str, parts: Sequence[str]) -> str:
        """One line about a key under `evaluate` where this run measures nothing of that name."""
        offers = [name for name in self.groups.get("/".join(parts[:2]), ()) if name != "none"]
        if offers:
            return (
                f"{key}: this run has no {parts[1]}; add evaluate.{parts[1]}=NAME, known: "
                f"{', '.join(offers)}"
            )
        known = [written(group) for group in self.groups if group.startswith("evaluate/")]
        return f"{key}: unknown key; {nearest('.'.join(parts[:2]), known)}"


def fills(override: Override, base: DictConfig) -> bool:
    """Whether adding to a key that exists means something: it extends a list or mapping, or
    replaces null."""
    if isinstance(override.value(), dict | list):
        return True
    parent, _, name = override.key_or_group.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    return isinstance(node, DictConfig) and node._get_node(name)._is_none()  # type: ignore[union-attr]


def close_key(name: str, parent: str, siblings: Sequence[str]) -> str:
    """`did you mean 'parent.name'?` by the last part alone, since long common beginnings make any
    two keys close."""
    near = suggestion(name, list(siblings))
    return near.replace("'", f"'{parent}.", 1) if near and parent else near


def _elsewhere(keys: Sequence[str]) -> str:
    return f"did you mean {' or '.join(repr(k) for k in keys[:3])}?" if keys else ""


def absent_method(key: str, name: str, present: Sequence[str], known: Catalogue) -> str:
    """One line about a key under a method that is not part of the run, with the remedy."""
    family = known.methods.get(name)
    if family:
        beside = [m for m in present if known.methods.get(m) == family]
        choice = f"{family}=[{','.join([*beside, name])}]" if beside else f"{family}={name}"
        return f"{key}: method '{name}' is not part of this run; add {choice}"
    here = f"methods of this run: {', '.join(present) or 'none'}"
    near = suggestion(name, list(present))
    if near:
        return f"{key}: there is no method '{name}' in this run; {near}"
    for other in known.methods:
        if suggestion(name, [other]):
            remedy = f"did you mean '{other}'? add {known.methods[other]}={other}"
            return f"{key}: there is no method '{name}'; {remedy} ({here})"
    return f"{key}: there is no method '{name}'; {here}"


def absent_everywhere(key: str, stages: Sequence[DictConfig], known: Catalogue) -> str:
    """One line about a key of a method or a measurement that no stage of a recipe has."""
    name = key.split(".")[1]
    family = known.methods.get(name) if key.startswith("methods.") else None
    if family:
        choice = f"{family}={name}"
        return (
            f"{key}: no stage has the method '{name}'; add {choice}, or for one stage "
            f"stages.NAME=['{choice}']"
        )
    sections = ("methods", "evaluate")
    present: dict[str, Any] = {
        s: {name: {} for stage in stages for name in stage.get(s) or {}} for s in sections
    }
    return known.unknown_key(key, "…", OmegaConf.create(present))


def grammar(text: str, error: OverrideParseException) -> str:
    """One line about text that is no override."""
    if (
        text.count("[") != text.count("]")
        or text.count("{") != text.count("}")
        or text.count("(") != text.count(")")
    ):
        return f"{text}: the brackets do not match"
    if "=" not in text.lstrip("~"):
        return f"{text}: expected KEY=VALUE or GROUP=NAME"
    reason = str(error.message).splitlines()[0].removeprefix("LexerNoViableAltException: ")
    return (
        f"{text}: cannot be read ({reason}); put values with spaces or signs in quotes: "
        "\"KEY='VALUE'\""
    )


def sweep(override: Override) -> str:
    """One line about several values in a single run."""
    key, value = written(override.get_key_element()), override.get_value_string()
    as_list = (
        f", or {key}=[{value}] for a list"
        if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP
        else ""
    )
    return f"{key}={value}: several values make several runs: add -m{as_list}"


def translate(error: Exception, known: Catalogue) -> str:
    """One line for any other refusal."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group in known.groups:
            return known.no_option(group, name)
    if isinstance(error, OverrideParseException):
        return grammar(error.override, error)
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    lines = [line.strip() for e in (error, deepest) for line in str(e).splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines[:3])) or type(error).__name__


def key_of(text: str) -> str:
    """The key of an override as written: `+a.b=1` -> `a.b`."""
    return text.lstrip("+~").partition("=")[0].strip()


def part_of(key: str) -> str:
    """`methods.NAME` or `evaluate.NAME` of a key below one of these, and empty for any other."""
    section, *rest = key.split(".")
    return f"{section}.{rest[0]}" if section in ("methods", "evaluate") and rest else ""


def lacks(config: DictConfig, key: str) -> bool:
    """Whether a key is of a method or a measurement that this run does not have, whatever a recipe
    sets of it."""
    part = part_of(key)
    node = OmegaConf.select(config, part) if part else None
    return bool(part) and not (isinstance(node, DictConfig) and "_target_" in node)


def has_key(tree: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, a null or open value included."""
    node: Any = tree
    for part in key.replace("[", ".").replace("]", "").split("."):
        # `in` denies a key whose value is still open (???)
        if isinstance(node, DictConfig) and part in list(node.keys()):
            node = node._get_node(part)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return False
    return True


def all_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a tree, inner nodes too."""
    if isinstance(tree, DictConfig) and not tree._is_none() and not tree._is_missing():
        for name in tree:
            key = f"{prefix}{name!s}"
            yield key
            yield from all_keys(tree._get_node(name), f"{key}.")
