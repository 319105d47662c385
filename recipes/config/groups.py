"""Where the configs lie and how they are grouped; reads YAML files as text, so that help needs no
other import.

A file's description is its first comment line, the `# @package` line aside. Files whose name begins
with `_` are parts of others and no choice.
"""

import re
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
NOT_FAMILIES = (
    "recipe",
    "data",
    "network",
    "optimizer",
    "scheduler",
    "trainer",
    "logger",
    "attack",
    "evaluate",
    "tuned",
)
SINGLE = ("recipe", "data", "network", "optimizer", "scheduler", "trainer", "evaluate/attack")


def families(root: Path = CONFIGS) -> list[str]:
    """Groups of methods: all others."""
    groups = (p.name for p in root.iterdir() if p.is_dir() and any(p.glob("*.yaml")))
    return sorted(name for name in groups if name not in NOT_FAMILIES and name != "hydra")


def options(group: str, root: Path = CONFIGS) -> dict[str, str]:
    """What a group offers, each with its description."""
    paths = (p for p in sorted((root / group).glob("*.yaml")) if not p.stem.startswith("_"))
    return {path.stem: description(path) for path in paths}


def description(path: Path) -> str:
    """The first comment line of a config file, without the mark; empty where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
        if line.strip() and not line.startswith("#"):
            break
    return ""


# a mapping in braces, an interpolation and null stay values
NO_CHOICE = r"\s*(?:\{|\$|null\s*$)"
# names in it are the user's own
OPEN = re.compile(r"^data\.sources\.")
ATTACK_OF_METHOD = re.compile(rf"^methods\.(\w+)\.attack=(?!{NO_CHOICE})")


def to_hydra(overrides: Sequence[str], root: Path = CONFIGS) -> list[str]:
    """Overrides in Hydra's words: `evaluate.attack=pgd` chooses of the group `evaluate/attack`,
    `methods.pgd_at.attack=bim` of the group `attack` for that method. `data.sources.NAME=PLACE`
    adds a name.

    The same words name the choice and its keys. A mapping in braces stays a value."""
    names = "|".join(sorted(p.name for p in (root / "evaluate").glob("*") if p.is_dir()))
    choice = re.compile(rf"^([+~]*)evaluate\.({names})(?==(?!\s*\{{)|$)")
    texts = [choice.sub(r"\1evaluate/\2", text) for text in overrides]
    texts = [f"++{text}" if OPEN.match(text) else text for text in texts]
    if not (root / "attack").is_dir():
        return texts
    texts = [ATTACK_OF_METHOD.sub(r"+attack@methods.\1.attack=", text) for text in texts]
    # Hydra takes an addition once; of several choices the last one counts
    last = {text.partition("=")[0]: text for text in texts}
    return [t for t in texts if "@" not in t.partition("=")[0] or last[t.partition("=")[0]] is t]


def from_hydra(group: str) -> str:
    """A group or an override as the user writes it: the inverse of `to_hydra`."""
    group = re.sub(r"^\+?attack@", "", group)
    if OPEN.match(group.removeprefix("++")):
        group = group.removeprefix("++")
    return re.sub(r"^([+~]*)evaluate/", r"\1evaluate.", group)


def as_key(group: str) -> str:
    """Where a user chooses of a group: the key before `=NAME`."""
    return "methods.METHOD.attack" if group == "attack" else from_hydra(group)
