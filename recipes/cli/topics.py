"""`python train.py --help methods.NAME`, `data.NAME`, `GROUP/NAME`: one choice in full.

Names are looked up in the config files alone, so that a wrong one is refused at once; classes are
imported only for a choice that has some."""

from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError, did_you_mean, nearest_name
from recipes.config.groups import CONFIGS, as_key, description, families

WHOLE_RUN = ("recipe", "tuned")  # groups whose files set keys of the whole run


def topic_text(name: str, root: Path = CONFIGS) -> str:
    """The help of one choice. Raises `UserError` for an unknown name, with the nearest one."""
    known = topics(root)
    asked = canonical(name, families(root))
    if asked not in known:
        near = did_you_mean(nearest_name(asked, known))
        raise UserError(
            f"--help {name}: there is no such name; {near or 'python train.py --help lists all'}"
        )
    path = known[asked]
    group = path.parent.relative_to(root).as_posix()
    lines = [f"{asked}: {description(path)}", ""]
    if group in WHOLE_RUN:
        lines += [*_file(path), ""]
    else:
        from recipes.cli.cards import cards

        for card in cards(asked, group, path, root):
            lines += [*card, ""]
    lines += ["Command", f"  python train.py {as_key(group)}={path.stem}"]
    return "\n".join(lines)


def topics(root: Path = CONFIGS) -> dict[str, Path]:
    """The config file of every choice, by its name for `--help`: `methods.NAME` or `GROUP.NAME`."""
    files = [p for p in sorted(root.rglob("*.yaml")) if not p.stem.startswith("_")]
    named = [(p.relative_to(root).with_suffix("").as_posix(), p) for p in files if p.parent != root]
    of_methods = families(root)
    return {canonical(name, of_methods): p for name, p in named if p.stem != "none"}


def canonical(name: str, of_methods: Sequence[str]) -> str:
    """A name with dots, and with `methods` for the family of a method."""
    group, dot, choice = name.replace("/", ".").rpartition(".")
    return f"{'methods' if group in of_methods else group}{dot}{choice}"


def _file(path: Path) -> list[str]:
    """A recipe's own lines: how it was measured, what it chooses and sets."""
    lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    said = ("# @package", f"# {description(path)}")
    return [f"  {line}".rstrip() for line in lines if not line.startswith(said)]
