"""Settings that differ between a run and the one it resumes: a pure comparison of two configs, leaf
by leaf."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes.config.plain_yaml import parse_plain
from recipes.config.renamed import with_current_keys

# Keys that do not change what is computed, or that name a place: a resumed run may have others.
PLACE = {
    "logger.*": "where numbers are sent",
    "logger": "the same, where there is none",
    "run_dir": "folder of the run",
    "resume": "how it was asked for",
    "dry_run": "how it was asked for",
    "accept_changes": "how it was asked for",
    "chosen.*": "names of choices; what they choose is compared",
    "stages*": "each stage is compared on its own",
    "trainer.accelerator": "the same numbers up to rounding",
    "trainer.devices": "batches are those of all devices together",
    "trainer.num_nodes": "batches are those of all devices together",
    "trainer.strategy": "the same numbers up to rounding; fsdp is compared on its own",
    "trainer.compile": "the same numbers up to rounding",
    "trainer.channels_last": "the same numbers up to rounding",
    "trainer.optimizer_impl": "the same numbers up to rounding",
    "trainer.progress_bar": "what is shown",
    "trainer.log_every": "what is shown",
    "trainer.val_every": "when is measured",
    "trainer.patience": "when the run ends",
    "trainer.limit_val_batches": "how much is measured",
    "checkpoint.*": "when is saved",
    "data.root": "where the same data lie",
    "data.unlabeled": "where the same data lie",
    "data.num_workers": "who fetches the data",
    "data.source.check": "which files are read once before training",
    "data.device_memory": "where the data wait",
    "data.eval_batch_size": "how many samples are measured at once",
}
# What is measured and how it is reported: a run that is under way may change it, a finished one has
# been measured.
MEASURED = {
    "evaluate.*": "measurements, which do not teach",
    "evaluate": "the same, where there is none",
    "data.few_below": "groups of classes in the numbers",
    "data.many_above": "groups of classes in the numbers",
}
# Settings that older versions lacked -> what they did. Other keys that the old config lacks pass.
BEFORE: dict[str, Any] = {
    "methods.*.horizon": None,
    "methods.*.moments": "kept",
    "methods.*.ema_horizon": None,
    "methods.*.ema_moments": "kept",
}
# Free mappings: an entry that is not there was not given.
OPEN = ("*.options.*",)
# Filled in when a run begins, so that null says nothing.
FILLED_IN = ("monitor",)
TARGET = "._target_"


class Unset:
    """No such key."""

    def __repr__(self) -> str:
        return "unset"


UNSET = Unset()


@dataclass(frozen=True)
class Difference:
    """One setting, as it was and as it is."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} {shown(self.old)} -> {shown(self.new)}"


def shown(value: Any) -> str:
    """A value in the words of the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], passing: Sequence[str] = (*PLACE, *MEASURED)
) -> list[Difference]:
    """Settings of two configs that differ, without those whose keys match `passing`."""
    # an earlier version named the same classes and keys otherwise
    before = dict(leaves(with_current_keys(old)))
    now = dict(leaves(with_current_keys(new)))
    old_folder = before.get("run_dir")
    new_folder = now.get("run_dir")
    differing = []
    for key in dict.fromkeys([*before, *now]):
        if matches(key, passing):
            continue
        a = before_value(key, before, now)
        b = now.get(key, UNSET)
        if key in FILLED_IN and None in (a, b):
            continue
        if not (same(a, b) or same(inside(a, old_folder), inside(b, new_folder))):
            differing.append(Difference(key, a, b))
    differing = without_parts(differing)
    # another recipe of equal settings is another name
    return [] if [d.key for d in differing] == ["recipe"] else differing


def before_value(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Any:
    """The old value of a setting; where the old config does not know it, what its version did."""
    if key in before:
        return before[key]
    known = [value for pattern, value in BEFORE.items() if fnmatchcase(key, pattern)]
    if known:
        return known[0]
    return UNSET if key.endswith(TARGET) or matches(key, OPEN) else now[key]


def same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def inside(value: Any, run_dir: Any) -> Any:
    """A path beside or in the run's folder, written relative to it: a folder with several runs may
    have been moved."""
    folder = f"{Path(run_dir).parent}/" if run_dir else "./"
    if not isinstance(value, str) or folder == "./" or not value.startswith(folder):
        return value
    return f"{{folder}}/{value.removeprefix(folder)}"


def without_parts(differing: list[Difference]) -> list[Difference]:
    """Where one thing took the place of another, that is the difference, and their settings are
    not."""
    swapped = [d.key.removesuffix(TARGET) for d in differing if d.key.endswith(TARGET)]
    listed = []
    for entry in differing:
        above = [part for part in swapped if entry.key.startswith(f"{part}.")]
        if entry.key.endswith(TARGET):
            above.remove(entry.key.removesuffix(TARGET))
        if above:
            continue
        if entry.key.endswith(TARGET):
            names = map(class_name, (entry.old, entry.new))
            entry = Difference(entry.key.removesuffix(TARGET), *names)
        listed.append(entry)
    return listed


def class_name(target: Any) -> Any:
    """The last name of a dotted path; what is no path as it is."""
    return target.rpartition(".")[2] if isinstance(target, str) else target


# -- as text ---------------------------------------------------------------------------------------
def parsed(text: Any, source: str) -> dict[str, Any]:
    """A config as a checkpoint or a folder holds it. source: begins each message. Raises UserError
    where it is none."""
    return plain(parse_plain(text, source))


def plain(config: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(config, resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


@dataclass(frozen=True)
class Change:
    """A setting that was changed when a run was resumed. step: optimizer steps done by then."""

    step: int
    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"from step {self.step} on: {self.key} {self.old} -> {self.new}"

    @classmethod
    def of(cls, difference: Difference, step: int) -> "Change":
        return cls(step, difference.key, shown(difference.old), shown(difference.new))


def config_text(config: DictConfig, changes: Sequence[Any] = ()) -> str:
    """config.yaml, with what was changed on the way as comments at its head."""
    return "".join(f"# {change}\n" for change in changes) + OmegaConf.to_yaml(config, resolve=True)
