"""Every pair of methods trains with both effects alive, or is refused in a sentence that names
both; and the page in `docs/` says so.

By default the refusals are checked here, and the allowed pairs train in the groups of
`test_groups.py`. The slow trials here train each pair, and three hundred triples, beside the runs
that leave one of them out, and compare the weights: they see an effect that a later method
undoes. In four parts, of which each machine takes one:

    pytest -m slow tests/conformance/test_pairs.py --shard 1/4
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from recipes.pairs import SHARES, TRAINS, page, refusal, verdicts
from recipes.setup.assemble import Assembly, assemble
from recipes.step import Step
from tests.support.groups import built, once_each, refused
from tests.support.lab import Outcome, differs, quiet, trial
from tests.support.pages import check_fresh
from tests.support.tiny_runs import KINDS, METHODS, company, declared, quiet_run_of

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
    check_fresh(PAGE, page(), "python -m recipes.pairs > docs/pairs.md")


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
            assert sum(names(line, key) for key in keys) >= 2, line
        return "refused"
    together = trial(config)
    # what another one requires cannot be left out
    required = {other for key in keys for other in company(key) if other != key}
    without = {
        key: quiet(kind, *(k for k in keys if k != key), beside=[key])
        for key in keys
        if key not in required
    }
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


def names(line: str, key: str) -> bool:
    """Whether a refusal names the method, or one that it requires in its place."""
    return any(f"{METHODS[name].family}={name}" in line for name in company(key))


def learns(together: Outcome, without: Outcome) -> bool:
    """Whether something moved that only the run with the method has: a head, an adapter."""
    own = [
        name for name in together.state.keys() - without.state.keys() if name.startswith("network.")
    ]
    return any(not torch.equal(together.start[name], together.state[name]) for name in own)


def parameters(combinations: Sequence[tuple[str, ...]], kind: str) -> list[Any]:
    """The combinations whose methods all work on such data, which the trial of each checks."""
    tried = [keys for keys in combinations if all(kind in declared(key).modalities for key in keys)]
    return [pytest.param(keys, id="+".join(keys)) for keys in tried]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_pair_is_refused_by_name(kind):
    """Under the settings of `configs/` and under those of the trials, a line for each reason. In the
    place of a method it may name one that this requires."""
    found = verdicts(kind)
    for pair, text in found.items():
        for key in pair:
            for line in text.splitlines():
                assert names(line, key), line
            for line in refused(kind, *pair).splitlines():
                assert any(re.search(rf"\b{name}\b", line) for name in company(key)), line
    assert 100 < sum(map(bool, found.values())) < len(found)


def rewriting(kind: str, keys: Sequence[str]) -> set[str]:
    """Those of these methods, which may all meet, that put another input in the place of the
    labeled one."""
    found: set[str] = set()

    def watched(key: str, plain: Callable[[Step, Any], None]) -> Callable[[Step, Any], None]:
        def prepare(step: Step, context: Any) -> None:
            before = step.inputs["labeled"]
            plain(step, context)
            if step.inputs["labeled"] is not before:
                found.add(key)

        return prepare

    def watch(assembly: Assembly) -> None:
        for key in keys:
            method = assembly.composition.methods[key]
            method.prepare = watched(key, method.prepare)  # type: ignore[method-assign]

    trial(quiet_run_of(kind, *keys), before_build=watch)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_methods_that_rewrite_one_input_do_not_undo_each_other(kind):
    """What the watch of `test_groups.py` cannot see: a later method that begins from the view and
    not from what an earlier one made of it."""
    preparing = [key for key in METHODS if built(key).implements("prepare")]
    able = [key for key in preparing if kind in declared(key).modalities]
    found = {key for keys in once_each(able, kind) for key in rewriting(kind, keys)}
    chosen = [key for key in able if key in found]
    pairs = [pair for pair in combinations(chosen, 2) if not refused(kind, *pair)]
    assert ("mixup", "label_smoothing") in [pair[::-1] for pair in pairs]
    assert [pair for pair in pairs if check_together(kind, *pair) != TRAINS] == []


@pytest.mark.slow
@pytest.mark.parametrize("keys", parameters(PAIRS, "image"))
def test_pair_on_images(keys):
    found, cell = check_together("image", *keys), cells()[keys]
    apart = bool(refused("image", *keys))
    assert (found == "refused") == apart
    # the page is of defaults: settings of a trial may be refused for what they ask
    if apart == cell.isalpha():
        assert found == ("refused" if cell.isalpha() else cell)


@pytest.mark.slow
@pytest.mark.parametrize("keys", parameters(PAIRS, "text"))
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


@pytest.mark.slow
@pytest.mark.parametrize("keys", parameters(triples(300, seed=0), "image"))
def test_triple_on_images(keys):
    check_together("image", *keys)


def test_a_refusal_leaves_no_method_out():
    """Three methods of which two pairs clash: a line for each pair."""
    lines = refusal(
        [METHODS[key] for key in ("fixmatch", "uda", "balanced_softmax", "logit_adjustment")],
        "image",
    ).splitlines()
    assert len(lines) == 2
    assert [("fixmatch" in line, "balanced_softmax" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]
