"""The pages that list what a user can choose, read from the configs and the classes they name.

python benchmarks/pages/catalogue.py methods > docs/methods.md
python benchmarks/pages/catalogue.py recipes > docs/recipes.md
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import yaml

from benchmarks.command import Command
from methods.adversarial.attacks.attack import Attack
from recipes.config.groups import CONFIGS, families, options
from recipes.config.signatures import find_target
from recipes.contract import Method
from recipes.pairs import default, listed

FAMILIES = {
    "semi_supervised": "Semi-supervised",
    "long_tail": "Long tail",
    "metric_learning": "Metric learning",
    "multi_task": "Multi-task",
    "peft": "Parameter-efficient fine-tuning",
    "adversarial": "Adversarial robustness",
    "regularization": "Regularization",
    "averaging": "Weight averaging",
}
METHODS = """# Methods

Made by `python benchmarks/pages/catalogue.py methods > docs/methods.md`; a test fails when this
page is stale.

`FAMILY=METHOD` adds a method to a recipe, `FAMILY=[a,b]` adds several. Its settings are
`methods.METHOD.…`, with defaults and comments in `configs/FAMILY/METHOD.yaml`. Which methods
combine: [pairs.md](pairs.md).

- *Data*: the kinds of data it works on.
- *Ranks*: yes, if n devices with 1/n of the batch each give the gradients of one device with the
  whole batch.
- *Reference*: the first paper named in the method's file, which also says where we differ from it.
"""
ATTACKS = """## Attacks

`evaluate.attack=NAME` measures robust accuracy under one; `methods.pgd_at.attack=NAME` and
`methods.trades.attack=NAME` train against one. When to use which: [adversarial.md](adversarial.md).

| attack | what it does | data | reference |
|---|---|---|---|"""
RECIPES = """# Recipes

Made by `python benchmarks/pages/catalogue.py recipes > docs/recipes.md`; a test fails when this
page is stale.

`python train.py recipe=NAME` runs one. Each file `configs/recipe/NAME.yaml` starts with its command
and, where it was measured, with accuracy, run time and hardware; results of several seeds are in
[results.md](results.md).

| recipe | what it does | methods |
|---|---|---|
"""


def first_sentence(text: str) -> str:
    """The first sentence of a docstring; abbreviations do not end it."""
    paragraph = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    return re.split(r"(?<!al\.)(?<!e\.g\.)(?<!i\.e\.)(?<=[.?!])\s", paragraph)[0]


def reference(text: str) -> str:
    """The first paper that a module's docstring names, its arXiv number as a link."""
    paper = " ".join(text.split()).split(";")[0].rstrip(".")
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", cell(paper))


def cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return text.replace("|", "\\|")


def row(key: str, meaning: str, method: Method) -> str:
    """A line of the table of methods."""
    declaration = method.declare()
    module = sys.modules[type(method).__module__]
    definition = first_sentence(type(method).__doc__ or "")
    cells = [
        f"`{key}`",
        f"{cell(meaning)}.<br><sub>{cell(definition)}</sub>",
        ", ".join(declaration.modalities),
        "yes" if declaration.ddp_exact else "no",
        reference(module.__doc__ or ""),
    ]
    return f"| {' | '.join(cells)} |"


def methods_page() -> str:
    """All methods, a table a family."""
    lines = [METHODS]
    entries = listed()
    order = sorted(families(), key=lambda family: list(FAMILIES).index(family))
    for family in order:
        meanings = options(family)
        page = CONFIGS.parent / "docs" / f"{family}.md"
        lines.append(f"## {FAMILIES[family]}: `{family}`\n")
        if page.exists():
            lines.append(f"When to use which: [{family}.md]({family}.md).\n")
        lines += ["| method | what it does | data | ranks | reference |", "|---|---|---|---|---|"]
        for key, entry in entries.items():
            if entry.family == family:
                lines.append(row(key, meanings[key], default(entry)))
        lines.append("")
    return "\n".join([*lines, ATTACKS, *map(attack_row, options("attack")), ""])


def attack_row(key: str) -> str:
    """A line of the table of attacks."""
    node = yaml.safe_load((CONFIGS / "attack" / f"{key}.yaml").read_text(encoding="utf-8"))
    attack: type[Attack] = find_target(node["_target_"])
    module = sys.modules[attack.__module__]
    definition = first_sentence(attack.__doc__ or "")
    cells = [
        f"`{key}`",
        f"{cell(options('attack')[key])}.<br><sub>{cell(definition)}</sub>",
        ", ".join(attack.modalities),
        reference(module.__doc__ or ""),
    ]
    return f"| {' | '.join(cells)} |"


def chosen(recipe: str) -> Iterator[str]:
    """The methods that a recipe's file names, in its defaults and in its stages."""
    text = (CONFIGS / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8")
    choices = re.findall(r"^ +- (?:override /(\w+): |(\w+)=)([^#\n]+)", text, re.MULTILINE)
    for default_family, stage_family, names in choices:
        if (default_family or stage_family) in FAMILIES:
            yield from (f"`{name.strip()}`" for name in names.strip("'\"[] ").split(","))


def recipes_page() -> str:
    """All recipes, with their methods."""
    lines = [
        f"| `{name}` | {cell(meaning)} | {', '.join(chosen(name)) or '–'} |"
        for name, meaning in options("recipe").items()
    ]
    return RECIPES + "\n".join(lines) + "\n"


PAGES = {"methods": methods_page, "recipes": recipes_page}


def main(argv: list[str] | None = None) -> int:
    parser = Command("pages/catalogue", __doc__)
    parser.add_argument("page", choices=PAGES)
    print(PAGES[parser.parse_args(argv).page](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
