"""Keys and values of earlier versions: they keep working, and a line names today's.

    on the command line, in a user's yaml   translated, with one line on stderr
    in a checkpoint or a run's config.yaml  translated without a word

Classes that have moved are in `foundation.moved`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from foundation.moved import with_current_names
from recipes.config.keys import has_key, key_of, value_of

# key of version 0.1 -> today's; keys below it move along
KEYS = {
    "trainer.update": "trainer.optimizer_impl",
    "methods.classifier_retraining": "methods.crt",
}
# group -> choice of version 0.1 -> today's; a choice may be one of a list
CHOICES = {"long_tail": {"classifier_retraining": "crt"}}
# today's key -> value of version 0.1 -> today's
VALUES = {
    "methods.fixmatch.mask_reduction": {"kept": "confident"},
    "methods.flexmatch.mask_reduction": {"kept": "confident"},
}
# a setting that came later -> what earlier versions did, where today's default does otherwise
ADDED: dict[str, Any] = {
    **{f"methods.{key}.align": 0 for key in ("fixmatch", "flexmatch", "uda", "mixmatch")},
    "methods.meta_pseudo_labels.align": 0,
    "methods.vat.detach": True,
    "methods.flexmatch.lowest": 0.0,
}
STAGE = re.compile(r"(stages|stage_keys|added_stage_keys|forced_stage_keys)\.[^.=\[\]]+\.")


def renamed_override(override: str) -> tuple[str, str]:
    """(an override as it is written today, a line that names the new key).

    The line is empty if nothing is renamed."""
    key = key_of(override)
    stage = STAGE.match(key)
    prefix = stage[0] if stage else ""
    own = key.removeprefix(prefix)
    today = _renamed_key(own)
    # the value may be several: all,kept
    value = _renamed_words(value_of(override), {**VALUES, **CHOICES}.get(today, {}))
    if (today, value) == (own, value_of(override)):
        return override, ""
    sign = override[: len(override) - len(override.lstrip("+~"))]
    equals = "=" if "=" in override else ""
    renamed = f"{sign}{prefix}{today}{equals}{value}"
    return renamed, _line(override, renamed)


def _renamed_key(key: str) -> str:
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def _renamed_words(text: str, names: Mapping[str, str]) -> str:
    """A text in which whole words are replaced."""
    for old, new in names.items():
        text = re.sub(rf"\b{re.escape(old)}\b", new, text)
    return text


def renamed_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """(overrides as they are written today, a line for each that is renamed)."""
    pairs = [renamed_override(text) for text in overrides]
    lines = [line for _, line in pairs if line]
    return [text for text, _ in pairs], lines


def rename_in_config(config: DictConfig, overrides: Iterable[str] = ()) -> list[str]:
    """Translate a composed config in place, whose files may be a user's own; returns lines to
    print. overrides: of the command: where one of them sets today's key, it wins."""
    said = set(map(key_of, overrides))
    lines = []
    with open_dict(config):
        for old, new in KEYS.items():
            if not has_key(config, old):
                continue
            parent, _, name = old.rpartition(".")
            value = _written(config, old)
            del OmegaConf.select(config, parent)[name]
            entries = {new: value}
            if isinstance(value, DictConfig):
                # each key below by itself: the command may set some of them
                entries = {f"{new}.{name!s}": entry for name, entry in value.items()}
            for key, entry in entries.items():
                if key not in said:
                    OmegaConf.update(config, key, entry, force_add=True)
            lines.append(_line(old, new))
        for key, values in VALUES.items():
            value = _written(config, key) if has_key(config, key) else None
            if value in values:
                OmegaConf.update(config, key, values[value])
                lines.append(_line(f"{key}={value}", f"{key}={values[value]}"))
    return lines


def _written(config: DictConfig, key: str) -> Any:
    """The value of a key that is there, an interpolation as its text: it may be one of nothing."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent)._get_node(name)
    return node if OmegaConf.is_config(node) else node._value()


def with_current_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an earlier run, as plain containers, with today's keys, values and classes;
    stages are configs of their own."""
    current = {str(key): value for key, value in with_current_names(dict(tree)).items()}
    for old, new in KEYS.items():
        holder, name = _holder(current, old)
        if holder is not None and name in holder:
            # in its place: the order of methods is the one in which they run. Both names in one
            # config is nothing that a version of Roux writes.
            own = new.rpartition(".")[2]
            entries = {own if key == name else key: value for key, value in holder.items()}
            holder.clear()
            holder.update(entries)
    for key, values in VALUES.items():
        holder, name = _holder(current, key)
        if holder is not None and isinstance(holder.get(name), str):
            holder[name] = values.get(holder[name], holder[name])
    for key, former in ADDED.items():
        holder, name = _holder(current, key)
        # a user's own method may have the same name
        if holder is not None and str(holder.get("_target_")).startswith("methods."):
            holder.setdefault(name, former)
    for group, names in CHOICES.items():
        chosen, _ = _holder(current, f"chosen.{group}")
        if chosen is not None and isinstance(chosen.get(group), str):
            chosen[group] = _renamed_words(chosen[group], names)
    stages = current.get("stages")
    if isinstance(stages, dict):
        for name, stage in stages.items():
            stages[name] = with_current_keys(stage) if isinstance(stage, dict) else stage
    return current


def _holder(tree: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """(the mapping that holds the last name of a dotted key, that name); None if there is none."""
    *parents, name = key.split(".")
    node: Any = tree
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else None), name


def _line(old: str, new: str) -> str:
    return f"{old} is called {new} now; the old name still works"
