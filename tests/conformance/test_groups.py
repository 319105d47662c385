"""Every pair of methods that may meet trains together, in groups of up to eight.

The groups are chosen from the declarations (`tests/support/groups.py`), so that every allowed pair
meets in each run of this file. Each method is watched at each of its points
(`tests/support/watch.py`); a failure names method and point, and the smallest subset that fails.

    pytest tests/conformance/test_groups.py -k mymethod     # the groups with one method
    pytest tests/conformance/test_groups.py --doubled       # what twice as many methods cost
"""

from itertools import combinations

import pytest

from recipes.contract import POINTS as ENGINE_POINTS
from recipes.pairs import verdicts
from tests.support.company import faults, verdict
from tests.support.groups import SIZE, Group, allowed, built, covering, known, refused
from tests.support.settings import CONDITIONAL, MEETING, UNSEEN
from tests.support.tiny_runs import KINDS, METHODS, declared
from tests.support.watch import POINTS, UNWATCHED, filled

GROUPS: dict[str, list[Group]] = {kind: covering(allowed(kind)) for kind in KINDS}
CASES = [(kind, group) for kind in KINDS for group in GROUPS[kind]]


def met(kind: str) -> set[tuple[str, str]]:
    """The pairs that train together in the groups of this run."""
    return {pair for group in GROUPS[kind] for pair in combinations(group, 2)}


@pytest.mark.parametrize(
    ("kind", "keys"), [pytest.param(*case, id=f"{case[0]}-{'+'.join(case[1])}") for case in CASES]
)
def test_group(kind, keys):
    found = verdict(kind, keys)
    assert not found, found


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_that_may_meet_is_in_a_group(kind):
    assert met(kind) == set(allowed(kind))
    assert all(len(group) <= SIZE for group in GROUPS[kind])


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
        assert any(key in pair for pair in met(kind))


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
