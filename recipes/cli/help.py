"""`python train.py --help`: what there is to say, read from the config files alone, in a fraction
of a second."""

import re
from pathlib import Path

from recipes.config.groups import CONFIGS, NOT_FAMILIES, as_key, families, options

HEADINGS = {
    "recipe": "Recipes",
    "data": "Data sets",
    "network": "Networks",
    "optimizer": "Optimizers",
    "scheduler": "Schedulers",
    "logger": "Loggers",
    "attack": "Attacks in training",
    "evaluate/attack": "Attacks at evaluation",
}
KEYS = (
    "seed",
    "run_dir",
    "dry_run",
    "resume",
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.precision",
    "optimizer.lr",
    "data.root",
    "data.batch_size",
)
EXAMPLES = (
    "python train.py recipe=fixmatch",
    "python train.py recipe=fixmatch long_tail=logit_adjustment data.imbalance_factor=20 "
    "dry_run=true",
    "python train.py -m recipe=supervised,fixmatch seed=0,1,2",
)


def help_text(root: Path = CONFIGS) -> str:
    """The whole text: recipes, methods by family, the other groups, the main keys, three
    examples."""
    lines = ["Roux trains models from recipes.  python train.py GROUP=NAME … KEY=VALUE …", ""]
    lines += _group("recipe", root)
    lines += ["Methods, by family (several: FAMILY=[a,b]; add to any recipe)"]
    for family in families(root):
        lines += _listing(
            family, {n: d for n, d in options(family, root).items() if n != "none"}, indent="  "
        )
    lines.append("")
    for group in (*NOT_FAMILIES[1:], "evaluate/attack"):
        if group in HEADINGS:
            lines += _group(group, root)
    lines += ["Main keys, with their defaults", *_keys(root), ""]
    lines += ["Examples", *(f"  {example}" for example in EXAMPLES), ""]
    lines += [
        "One choice in full, with its settings: --help methods.NAME, data.NAME or GROUP/NAME; "
        "versions: --version",
        "Every other key of a run: add dry_run=true, or print its whole config with --cfg job.",
    ]
    return "\n".join(lines)


def _group(group: str, root: Path) -> list[str]:
    entries = options(group, root)
    return [*_listing(f"{HEADINGS[group]} ({as_key(group)}=NAME)", entries), ""] if entries else []


def _listing(title: str, entries: dict[str, str], indent: str = "") -> list[str]:
    if not entries:
        return []
    width = max(16, *(len(name) for name in entries))
    return [
        f"{indent}{title}",
        *(f"{indent}  {name:<{width}}  {about}".rstrip() for name, about in entries.items()),
    ]


def _keys(root: Path) -> list[str]:
    found = [(key, entry) for key in KEYS if (entry := _entry(key, root))]
    width = max((len(f"{key}={value}") for key, (value, _) in found), default=0)
    return [
        f"  {f'{key}={value}':<{min(width, 40)}}  {about}".rstrip() for key, (value, about) in found
    ]


def _entry(key: str, root: Path) -> tuple[str, str] | None:
    """Default and comment of a key, from the root file or from the default choice of its group."""
    main = root / "config.yaml"
    group, _, name = key.rpartition(".")
    path = main
    if group:
        choice = _search(rf"^  - {group}: (\S+)", main)
        path = root / group / f"{choice[1]}.yaml" if choice else main
    # what a file does not say, the files it is made of may
    places = [path, *sorted(path.parent.glob("_*.yaml"))] if group else [path]
    found = next(
        (hit for place in places if (hit := _search(rf"^{name}: *(\S+)(?: *# *(.*))?$", place))),
        None,
    )
    return (_short(found[1]), found[2] or "") if found else None


def _short(value: str) -> str:
    return re.sub(
        r"\$\{now:[^}]*\}",
        "TIME",
        re.sub(r"\$\{(?:hydra:runtime\.choices\.)?(\w+)\}", lambda m: m[1].upper(), value),
    )


def _search(pattern: str, path: Path) -> re.Match[str] | None:
    return (
        re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
        if path.is_file()
        else None
    )
