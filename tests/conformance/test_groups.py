"""Every pair of methods that may meet trains together, in groups of up to eight.

The groups are chosen from the declarations (`tests/support/groups.py`), so that every allowed pair
meets in each run of this file: on pictures, and on texts where it may meet there alone. Every other
method that works on texts is in one group on texts; all pairs meet there in the slow trials. Each
method is watched at each of its points (`tests/support/watch.py`); a failure names method and
point, and the smallest subset that fails.

    pytest tests/conformance/test_groups.py -k mymethod     # the groups with one method
    pytest tests/conformance/test_groups.py --doubled       # what twice as many methods cost
    pytest tests/conformance/test_groups.py -m slow         # all pairs on texts
"""

from itertools import combinations

import pytest

from recipes.contract import POINTS as ENGINE_POINTS
from recipes.pairs import verdicts
from tests.support.company import faults, verdict
from tests.support.groups import (
    SIZE,
    Group,
    Pair,
    allowed,
    built,
    covering,
    known,
    once_each,
    refused,
)
from tests.support.settings import CONDITIONAL, MEETING, UNSEEN
from tests.support.tiny_runs import KINDS, METHODS, declared
from tests.support.watch import POINTS, UNWATCHED, filled


def on_texts() -> list[Group]:
    """The pairs that meet nowhere else, and every other method once, with at least one other."""
    elsewhere = set(allowed("image"))
    pairs = allowed("text")
    groups = covering(pairs, [pair for pair in pairs if pair not in elsewhere])
    placed = {key for group in groups for key in group}
    rest = [key for key in known() if "text" in declared(key).modalities and key not in placed]
    for group in once_each(rest, "text", SIZE):
        alone = len(group) == 1
        groups.append(next(pair for pair in pairs if group[0] in pair) if alone else group)
    return groups


GROUPS: dict[str, list[Group]] = {"image": covering(allowed("image")), "text": on_texts()}
ALL_ON_TEXTS = covering(allowed("text"))
CASES = [(kind, group) for kind in KINDS for group in GROUPS[kind]]


def met(groups: list[Group]) -> set[Pair]:
    """The pairs that train together in these groups."""
    return {pair for group in groups for pair in combinations(group, 2)}


@pytest.mark.parametrize(
    ("kind", "keys"), [pytest.param(*case, id=f"{case[0]}-{'+'.join(case[1])}") for case in CASES]
)
def test_group(kind, keys):
    found = verdict(kind, keys)
    assert not found, found


@pytest.mark.slow
@pytest.mark.parametrize("keys", ALL_ON_TEXTS, ids="+".join)
def test_group_on_texts(keys):
    found = verdict("text", keys)
    assert not found, found


def test_every_pair_that_may_meet_is_in_a_group():
    pictures, texts = met(GROUPS["image"]), met(GROUPS["text"])
    assert pictures == set(allowed("image"))
    assert texts <= set(allowed("text")) <= pictures | texts
    assert met(ALL_ON_TEXTS) == set(allowed("text"))
    assert all(len(group) <= SIZE for groups in GROUPS.values() for group in groups)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_page_allows_the_trials_allow(kind):
    """Settings of the trials may keep a pair apart that the defaults allow: it then has settings of
    its own."""
    page = {pair for pair, refusal in verdicts(kind).items() if not refusal}
    apart = {pair for pair in page if refused(kind, *pair)}
    assert apart == {pair for pair in MEETING if pair in page}
    assert {pair for pair in allowed(kind) if METHODS.keys() >= {*pair}} == page - apart


@pytest.mark.parametrize("keys", MEETING, ids="+".join)
def test_pair_with_settings_of_its_own(keys):
    kind = declared(keys[0]).modalities[0]
    assert faults(kind, keys, MEETING[keys]) == []


@pytest.mark.parametrize("key", METHODS)
def test_a_method_has_something_to_watch(key):
    """And no method is alone: it meets another in some group."""
    method = built(key)
    points = {point for point in filled(method) if (key, point) not in UNSEEN}
    declaration = method.declare()
    assert points or declaration.orders or declaration.teacher
    for kind in declaration.modalities:
        assert any(key in group and len(group) > 1 for group in GROUPS[kind])


@pytest.mark.parametrize(("key", "point"), CONDITIONAL, ids=str)
def test_a_point_for_some_settings_takes_effect_with_them(key, point, monkeypatch):
    settings = CONDITIONAL[key, point][1]
    monkeypatch.delitem(CONDITIONAL, (key, point))
    kind = declared(key).modalities[0]
    assert f"{key} has no effect at {point}" in faults(kind, (key,))
    assert f"{key} has no effect at {point}" not in faults(kind, (key,), {key: settings})


def test_every_point_of_the_engine_is_watched():
    assert set(ENGINE_POINTS) <= {*POINTS, *UNWATCHED}


def test_the_tables_name_methods_and_points_that_exist():
    for key, point in [*CONDITIONAL, *UNSEEN]:
        assert point in filled(built(key)), f"{key} does not fill {point} any more"


def test_equal_seeds_give_equal_groups():
    pairs = allowed("image")
    assert covering(pairs) == covering(pairs)
    assert len(known()) == len(set(known()))
