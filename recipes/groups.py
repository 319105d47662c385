"""Where the configs lie and how they are grouped; reads YAML files as text, so that help needs no other
import.

A file's description is its first comment line, the `# @package` line aside.
"""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SINGLE = ("recipe", "data", "network", "optimizer", "scheduler", "trainer", "logger")


def families(root: Path = CONFIGS) -> list[str]:
    """Groups of methods: all folders but those of which a run takes exactly one."""
    found = (p.name for p in root.iterdir() if p.is_dir() and any(p.glob("*.yaml")))
    return sorted(name for name in found if name not in SINGLE and name != "hydra")


def options(group: str, root: Path = CONFIGS) -> dict[str, str]:
    """What a group offers, each with its description."""
    return {path.stem: description(path) for path in sorted((root / group).glob("*.yaml"))}


def description(path: Path) -> str:
    """The first comment line of a config file, without the mark; empty where there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
        if line.strip() and not line.startswith("#"):
            break
    return ""
