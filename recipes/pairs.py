"""Which methods may meet: every pair composed under its defaults, and the answers as a page.

python -m recipes.pairs > docs/pairs.md
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.config.groups import CONFIGS, families, options
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.contract.method import Method

VIEWS = frozenset({"raw", "weak", "strong"})
TRAINS, SHARES = "+", "="
HEAD = """# Which methods combine

Made by `python -m recipes.pairs > docs/pairs.md`; a test fails when this page is stale, and
another trains every pair.

Methods have the settings of their files in `configs/`, and the data set offers the views `raw`,
`weak` and `strong`. A cell is

- `{trains}`: both take effect in one run;
- `{shares}`: they share one EMA teacher; it has the settings of one method, the other's EMA
  settings are ignored;
- a letter: the pair is refused, before data or device is touched, for the reason with this letter;
- empty: one of them does not work on images.

Columns have the numbers of the rows. {counts} combine.

Other settings may give another answer: `dry_run=true` added to a command prints it.
"""


@dataclass(frozen=True)
class Listed:
    """A method as the configs offer it: `FAMILY=key` on the command line."""

    family: str
    key: str
    path: Path

    def node(self) -> dict[str, Any]:
        """The content of its file."""
        return OmegaConf.to_container(OmegaConf.load(self.path))  # type: ignore[return-value]

    def build(self, **changes: Any) -> Method:
        return instantiate(self.node() | changes, _convert_="all")


@cache
def listed(root: Path = CONFIGS) -> dict[str, Listed]:
    """All methods by key, family after family; read once in a process."""
    offers = [
        (family, key) for family in families(root) for key in options(family, root) if key != "none"
    ]
    return {key: Listed(family, key, root / family / f"{key}.yaml") for family, key in offers}


@cache
def default(entry: Listed) -> Method:
    """A method with the settings of its file: only its declaration is asked for, so one will do."""
    return entry.build()


def shares(a: Listed, b: Listed) -> bool:
    """Whether one of two methods leaves its averaged network to the other."""
    first, second = default(a).declare(), default(b).declare()
    return (
        bool(first.teacher and second.teacher)
        and first.accepts_any_teacher != second.accepts_any_teacher
    )


def in_company(entries: Sequence[Listed], root: Path = CONFIGS) -> list[Listed]:
    """The methods, and in front of them those that they require: of several that would do, the
    first."""
    together = list(entries)
    for entry in entries:
        others = [other for other in together if other is not entry]
        for tag in default(entry).declare().requires:
            if not any(tag in default(other).declare().tags for other in others):
                offers = [o for o in listed(root).values() if tag in default(o).declare().tags]
                together.insert(0, offers[0])
    return together


def refusal(entries: Sequence[Listed], kind: str, root: Path = CONFIGS) -> str:
    """Why these methods cannot be combined on data of a kind, in the words a user reads; empty
    where they can. A method that requires another one is in its company, whose own refusals count
    only where these methods have none."""
    together = in_company(entries, root)
    families = {entry.key: entry.family for entry in together}
    environment = Environment(kind, VIEWS, kind, families=families)
    try:
        compose({entry.key: default(entry) for entry in together}, environment)
    except UserError as error:
        return without_company(str(error), [e.key for e in together if e not in entries])
    return ""


def without_company(refusal: str, company: Sequence[str]) -> str:
    """The lines that name no method of the company; all of them where each does."""
    lines = refusal.splitlines()
    names = "|".join(company)
    own = [line for line in lines if not re.search(rf"(=|methods\.)({names})\b", line)]
    return "\n".join(own or lines) if company else refusal


@cache
def verdicts(kind: str, root: Path = CONFIGS) -> dict[tuple[str, str], str]:
    """Every pair, in the order of `listed`, with its refusal or an empty string; pairs of which one
    does not work on such data at all are left out."""
    able = [entry for entry in listed(root).values() if not refusal([entry], kind, root)]
    return {(a.key, b.key): refusal([a, b], kind, root) for a, b in combinations(able, 2)}


def anonymous(text: str, a: Listed, b: Listed) -> str:
    """A refusal as a sentence about any pair: the methods are called A and B."""
    for entry, name in ((a, "A"), (b, "B")):
        # as a whole word: a key may begin another
        text = re.sub(rf"\b{entry.family}={entry.key}\b", name, text)
    text = "; ".join(text.splitlines())
    company = [entry for entry in in_company([a, b]) if entry not in (a, b)]
    for name in ("A", "B"):
        if company and not re.search(rf"\b{name}\b", text):
            # the method that it requires refuses the other, or is refused by it
            needed = " and ".join(f"{entry.family}={entry.key}" for entry in company)
            text = f"{name} needs {needed}: {text}"
    return text


def reasons(root: Path = CONFIGS) -> dict[tuple[str, str], str]:
    """The sentences of the refused pairs on images."""
    known = listed(root)
    return {
        (a, b): anonymous(text, known[a], known[b])
        for (a, b), text in verdicts("image", root).items()
        if text
    }


def page(root: Path = CONFIGS) -> str:
    """The page, Markdown."""
    said = reasons(root)
    letters = {sentence: letter(i) for i, sentence in enumerate(dict.fromkeys(said.values()))}
    known = listed(root)
    cells = {
        (a, b): letters[said[a, b]]
        if (a, b) in said
        else SHARES
        if shares(known[a], known[b])
        else TRAINS
        for a, b in verdicts("image", root)
    }
    lines = [HEAD.format(trains=TRAINS, shares=SHARES, counts=counts(root))]
    lines += [*table(list(known), cells), ""]
    lines += ["A is the method with the smaller number, B the other.", ""]
    lines += [f"- **{key}**: {sentence}." for sentence, key in letters.items()]
    return "\n".join([*lines, "", "## On text", "", *on_text(root)]) + "\n"


def counts(root: Path = CONFIGS) -> str:
    """How many pairs there are, and how many of them are refused."""
    parts = []
    for kind, noun in (("image", "images"), ("text", "texts")):
        answers = list(verdicts(kind, root).values())
        refused = sum(map(bool, answers))
        allowed = len(answers) - refused
        parts.append(f"{allowed:,} of {len(answers):,} pairs on {noun} ({refused:,} refused)")
    return " and ".join(parts)


def letter(number: int) -> str:
    """0, 1, … as a, …, z, aa, ab, …"""
    rest, last = divmod(number, 26)
    return (letter(rest - 1) if rest else "") + chr(ord("a") + last)


def table(keys: list[str], cells: dict[tuple[str, str], str]) -> Iterator[str]:
    yield f"| | {' | '.join(str(i) for i in range(1, len(keys) + 1))} |"
    yield f"|---|{':-:|' * len(keys)}"
    for i, row in enumerate(keys, 1):
        line = ["·" if row == c else cells.get((row, c)) or cells.get((c, row), "") for c in keys]
        yield f"| **{i} {row}** | {' | '.join(line)} |"


def on_text(root: Path = CONFIGS) -> Iterator[str]:
    """Where texts differ from images."""
    known, texts, images = listed(root), verdicts("text", root), verdicts("image", root)
    for entry in known.values():
        alone = refusal([entry], "text", root)
        if alone:
            kinds = " and ".join(default(entry).declare().modalities)
            yield f"- `{entry.family}={entry.key}` works on {kinds} data only."
    other = [pair for pair in texts if texts[pair] != images.get(pair, "")]
    for a, b in other:
        yield f"- {a} and {b}: {anonymous(texts[a, b], known[a], known[b]) or 'trains'}."
    if not other:
        yield "- All other pairs: as above."


if __name__ == "__main__":
    print(page(), end="")
