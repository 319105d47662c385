"""Every pair of methods trains with both effects alive, or is refused in a sentence that names
both; and the page in `docs/` says so."""

import math
import random
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from recipes.contract.composition import Environment, compose
from recipes.pairs import SHARES, TRAINS, VIEWS, page, refusal, verdicts
from recipes.runs.assembly import assemble
from tests.conformance.lab import METHODS, Outcome, declared, differs, quiet, quiet_run_of, trial
from tests.conformance.settings import CANONICAL

PAGE = Path(__file__).parents[2] / "docs" / "pairs.md"
PAIRS = list(combinations(METHODS, 2))


def cells() -> dict[tuple[str, str], str]:
    """The matrix of the page, by row and column."""
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith("|-")
    ]
    (_, *columns), *body = rows
    names = [name.partition(" ")[2] for name, *_ in body]
    assert columns == [str(i + 1) for i in range(len(body))], "columns are numbered as rows"
    values = {
        row: dict(zip(names, cells, strict=True))
        for row, (_, *cells) in zip(names, body, strict=True)
    }
    return {(row, column): values[row][column] for row in names for column in names}


def legend() -> dict[str, str]:
    found = re.findall(
        r"^- \*\*([a-z]+)\*\*: (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    return dict(found)


def test_the_page_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "stale: python -m recipes.pairs > docs/pairs.md"
    )


def test_every_pair_has_a_cell_and_every_letter_a_sentence():
    found, sentences = cells(), legend()
    assert found.keys() == {(a, b) for a in METHODS for b in METHODS}
    assert {found[pair] for pair in PAIRS} - {TRAINS, SHARES, ""} == sentences.keys()
    assert all(found[a, b] == found[b, a] for a, b in PAIRS)
    assert all(
        re.fullmatch(r"(?=.*\bA\b)(?=.*\bB\b).*: .*\.", sentence) for sentence in sentences.values()
    )


def check_together(kind: str, *keys: str) -> str:
    """Train these methods together and hold that against the runs without one of them, or hold
    their refusal against the rules; returns what the page should say."""
    config = quiet_run_of(kind, *keys)
    try:
        assemble(config)
    except UserError as error:
        for line in str(error).splitlines():
            assert sum(f"{METHODS[key].family}={key}" in line for key in keys) == 2, line
        return "refused"
    together = trial(config)
    without = {key: quiet(kind, *(k for k in keys if k != key), beside=[key]) for key in keys}
    assert all(math.isfinite(value) for row in together.history.values() for value in row.values())
    assert together.terms == set().union(*(outcome.terms for outcome in without.values()))
    idle = [
        key
        for key, outcome in without.items()
        if not (differs(together, outcome) or learns(together, outcome))
    ]
    # whoever asks for the averaged network alone may leave it to another, and says so
    assert all(declared(key).accepts_any_teacher for key in idle), (
        f"{idle} without effect in {' + '.join(keys)}"
    )
    return SHARES if idle else TRAINS


def learns(together: Outcome, without: Outcome) -> bool:
    """Whether something moved that only the run with the method has: a head, an adapter."""
    own = [
        name for name in together.state.keys() - without.state.keys() if name.startswith("network.")
    ]
    return any(not torch.equal(together.start[name], together.state[name]) for name in own)


def refused_as_tried(kind: str, *keys: str) -> bool:
    """Whether declarations under the settings of the trials refuse each other."""
    methods = {key: METHODS[key].build(**CANONICAL.get(key, {})) for key in keys}
    try:
        compose(methods, Environment(kind, VIEWS))
    except UserError:
        return True
    return False


def able(kind: str, *keys: str) -> bool:
    """Whether each of these methods works on such data at all, which its own trial checks."""
    return all(kind in declared(key).modalities for key in keys)


def sampled(combinations: Sequence[tuple[str, ...]], kind: str, every: int) -> list[Any]:
    """The combinations that can be tried on such data; all but each `every`-th are left to the slow
    trials."""
    tried = [keys for keys in combinations if able(kind, *keys)]
    marks = [() if i % every == 0 else (pytest.mark.slow,) for i in range(len(tried))]
    return [
        pytest.param(keys, id="+".join(keys), marks=mark)
        for keys, mark in zip(tried, marks, strict=True)
    ]


@pytest.mark.parametrize("keys", sampled(PAIRS, "image", every=11))
def test_pair_on_images(keys):
    found, cell = check_together("image", *keys), cells()[keys]
    assert (found == "refused") == refused_as_tried("image", *keys)
    # the page is of defaults: settings of a trial may be refused for what they ask
    if refused_as_tried("image", *keys) == cell.isalpha():
        assert found == ("refused" if cell.isalpha() else cell)


@pytest.mark.parametrize("keys", sampled(PAIRS, "text", every=41))
def test_pair_on_text(keys):
    assert (check_together("text", *keys) == "refused") == bool(verdicts("text")[keys])


def triples(number: int, seed: int) -> list[tuple[str, ...]]:
    """Methods of three families each, drawn at random."""
    source, families = random.Random(seed), sorted({entry.family for entry in METHODS.values()})
    found: dict[tuple[str, ...], None] = {}
    while len(found) < number:
        chosen = source.sample(families, 3)
        keys = [
            source.choice([k for k, entry in METHODS.items() if entry.family == family])
            for family in chosen
        ]
        found[tuple(sorted(keys, key=list(METHODS).index))] = None
    return list(found)


@pytest.mark.parametrize("keys", sampled(triples(200, seed=0), "image", every=20))
def test_triple_on_images(keys):
    check_together("image", *keys)


def test_a_refusal_leaves_no_method_out():
    """Three methods of which two pairs clash: a line for each pair."""
    lines = refusal(
        [METHODS[key] for key in ("fixmatch", "uda", "mixup", "cutmix")], "image"
    ).splitlines()
    assert len(lines) == 2
    assert [("fixmatch" in line, "mixup" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]
