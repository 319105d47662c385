"""Every pair of methods trains with both effects alive, or is refused in a sentence that names both; and the page in
`docs/` says so."""

import math
import re
from itertools import combinations
from pathlib import Path

import pytest

from datamodules.errors import UserError
from recipes.assembly import assemble
from recipes.pairs import SHARES, TRAINS, page, refusal, verdicts
from tests.conformance.lab import METHODS, declared, differs, quiet, quiet_run_of, trial

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
    values = {row: dict(zip(names, cells, strict=True)) for row, (_, *cells) in zip(names, body, strict=True)}
    return {(row, column): values[row][column] for row in names for column in names}


def legend() -> dict[str, str]:
    found = re.findall(r"^- \*\*([a-z]+)\*\*: (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


def test_the_page_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: python -m recipes.pairs > docs/pairs.md"


def test_every_pair_has_a_cell_and_every_letter_a_sentence():
    found, sentences = cells(), legend()
    assert found.keys() == {(a, b) for a in METHODS for b in METHODS}
    assert {found[pair] for pair in PAIRS} - {TRAINS, SHARES} == sentences.keys()
    assert all(found[a, b] == found[b, a] for a, b in PAIRS)
    assert all(re.fullmatch(r".*\bA\b.*\bB\b.*: .*\.", sentence) for sentence in sentences.values())


def check_pair(a: str, b: str, kind: str) -> str:
    """Train the pair, or hold its refusal against the rules; returns what the page should say."""
    config = quiet_run_of(kind, a, b)
    try:
        assemble(config)
    except UserError as error:
        for line in str(error).splitlines():
            assert f"{METHODS[a].family}={a}" in line
            assert f"{METHODS[b].family}={b}" in line
        return "refused"
    both, one, other = trial(config), quiet(kind, a, beside=b), quiet(kind, b, beside=a)
    assert all(math.isfinite(value) for row in both.history.values() for value in row.values())
    assert both.terms == one.terms | other.terms
    effects = [differs(both, other), differs(both, one)]
    if effects == [True, True]:
        return TRAINS
    # whoever asks for the averaged network alone may leave it to the other, and says so
    idle = [key for key, effect in zip((a, b), effects, strict=True) if not effect]
    assert [declared(key).yields_teacher for key in idle] == [True], f"{idle} without effect in {a} + {b}"
    return SHARES


@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_pair_on_images(a, b):
    if not all("image" in declared(key).kinds for key in (a, b)):
        pytest.skip("one of them does not work on images, which its own trial checks")
    cell = cells()[a, b]
    assert check_pair(a, b, "image") == ("refused" if cell.isalpha() else cell)


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_pair_on_text(a, b):
    if not all("text" in declared(key).kinds for key in (a, b)):
        pytest.skip("one of them does not work on text, which its own trial checks")
    assert (check_pair(a, b, "text") == "refused") == bool(verdicts("text")[a, b])


def test_a_refusal_leaves_no_method_out():
    """Three methods of which two pairs clash: a line for each pair."""
    lines = refusal([METHODS[key] for key in ("fixmatch", "uda", "mixup", "cutmix")], "image").splitlines()
    assert len(lines) == 2
    assert [("fixmatch" in line, "mixup" in line) for line in lines] == [(True, False), (False, True)]
