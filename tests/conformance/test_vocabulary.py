"""The words of all declarations in `configs/`: nobody consults a tag that nobody carries, and no tag
is carried in vain."""

import re
from contextlib import suppress
from functools import cache
from itertools import combinations
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hydra.errors import InstantiationException

from foundation.errors import UserError
from methods.adversarial.robust_accuracy import Robustness
from recipes.contract import Declaration, Method
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.contract.vocabulary import INFORMATIVE, RESERVED, SLOTS, TAGS
from recipes.pairs import VIEWS, default, reasons
from tests.support.tiny_runs import METHODS, declared

# a measurement that refuses methods of this tag
BY_PROBES = {"random_inference": Robustness}


@cache
def variants(key: str) -> list[Declaration]:
    """Declarations of a method under the settings of its file, of the trials, and with each choice
    of its arguments."""
    entry = METHODS[key]
    methods = [default(entry)]
    for name, annotation in get_type_hints(type(methods[0]).__init__).items():
        # what remains cannot be chosen alone, or needs another argument beside it
        with suppress(UserError, InstantiationException):
            methods += [entry.build(**{name: choice}) for choice in choices(annotation)]
    return [*(method.declare() for method in methods), declared(key)]


def choices(annotation: object) -> tuple[object, ...]:
    """The values of a literal or a boolean."""
    if annotation is bool:
        return (False, True)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def words(*fields: str) -> set[str]:
    """All words in these fields of all declarations."""
    return {
        word
        for key in METHODS
        for declaration in variants(key)
        for field in fields
        for word in getattr(declaration, field)
    }


def test_all_words_are_in_the_vocabulary():
    assert words("slots") <= SLOTS.keys()
    assert words("tags", "refuses", "requires", "before", "after") <= TAGS.keys()


def test_every_tag_that_is_consulted_is_carried_by_a_method_or_reserved():
    consulted, carried = words("refuses", "requires", "before", "after"), words("tags")
    assert consulted - carried - RESERVED == set()
    assert not RESERVED & carried, "no longer reserved"


def test_every_tag_that_is_carried_is_consulted_or_informative():
    consulted = words("refuses", "requires", "before", "after") | BY_PROBES.keys()
    assert words("tags") - consulted - INFORMATIVE == set()
    assert not INFORMATIVE & consulted, "not only informative"
    assert TAGS.keys() == words("tags") | RESERVED, "words that nobody uses"


def test_no_two_methods_order_one_stream():
    refused = reasons()
    for a, b in combinations(METHODS, 2):
        streams = declared(a).orders.keys() & declared(b).orders.keys()
        assert not streams or (a, b) in refused, (a, b, streams)


def test_every_refusal_names_both():
    assert reasons()
    for text in reasons().values():
        assert re.search(r"\bA\b", text) and re.search(r"\bB\b", text), text


class Typo(Method):
    def __init__(self, **fields):
        self.fields = fields

    def declare(self):
        return Declaration(**self.fields)


ENVIRONMENT = Environment("image", VIEWS, families={"typo": "regularization"})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"tags": ("soft_target",)},
            "regularization=typo declares tags='soft_target': there is no such tag; did you mean "
            "'soft_targets'? (a new one goes into recipes.contract.vocabulary.TAGS)",
        ),
        (
            {"refuses": {"mixes_input": "it mixes"}},
            "regularization=typo declares refuses='mixes_input': there is no such tag; did you "
            "mean 'mixes_inputs'? (a new one goes into recipes.contract.vocabulary.TAGS)",
        ),
        (
            {"requires": {"adapter": "it changes them"}},
            "regularization=typo declares requires='adapter': there is no such tag; did you mean "
            "'adapters'? (a new one goes into recipes.contract.vocabulary.TAGS)",
        ),
        (
            {"slots": ("mixr",)},
            "regularization=typo declares slots='mixr': there is no such slot; did you mean "
            "'mixer'? (a new one goes into recipes.contract.vocabulary.SLOTS)",
        ),
        (
            {"after": ("deltas",)},
            "regularization=typo declares after='deltas': there is no such tag; did you mean "
            "'delta'? (a new one goes into recipes.contract.vocabulary.TAGS)",
        ),
        (
            {"orders": {"labelled": lambda *_: None}},
            "regularization=typo declares orders='labelled': no method loads such a stream; did "
            "you mean 'labeled'?",
        ),
    ],
)
def test_a_typo_is_an_error_in_one_line(fields, line):
    with pytest.raises(UserError) as refusal:
        compose({"typo": Typo(**fields)}, ENVIRONMENT)
    assert str(refusal.value) == line


def test_two_orders_of_one_stream_are_refused():
    fields = {"views": {"unlabeled": ("weak",)}, "orders": {"unlabeled": lambda *_: None}}
    with pytest.raises(UserError) as refusal:
        compose({"a": Typo(**fields), "b": Typo(**fields)}, ENVIRONMENT)
    assert str(refusal.value) == (
        "methods.a and methods.b both set the order of unlabeled samples, which only one method "
        "can: leave one out"
    )


def test_a_word_of_ones_own(monkeypatch):
    monkeypatch.setitem(TAGS, "mine", "a tag of a user's method")
    assert compose({"a": Typo(tags=("mine",))}, ENVIRONMENT).declarations["a"].tags == ("mine",)


def test_what_is_not_exact_on_several_ranks_says_how_it_differs():
    told = {key: d.ddp_difference for key in METHODS for d in variants(key) if not d.ddp_exact}
    assert told and all(told.values()), told
