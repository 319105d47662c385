"""A user's mistake in parts and as a line."""

import pickle

import pytest

from foundation.errors import (
    ConfigErrors,
    UserError,
    did_you_mean,
    first_line,
    first_sentence,
    nearest,
    nearest_name,
    raise_all,
)


def test_parts_make_one_line():
    error = UserError("data.root=x", "no such folder", "name another")
    assert str(error) == "data.root=x: no such folder; name another"
    assert (error.key, error.problem, error.remedy) == (
        "data.root=x",
        "no such folder",
        "name another",
    )
    assert str(UserError("seed", "got -1")) == "seed: got -1"
    assert str(UserError("", "no such file", "name another")) == "no such file; name another"
    plain = UserError("a line: as it is")
    assert (str(plain), plain.key) == ("a line: as it is", "")


def test_the_same_mistake_elsewhere():
    error = UserError("resume", "there is no 'x'", "name a run")
    assert str(error.about("run")) == "run: there is no 'x'; name a run"
    assert str(error.within("stages.a")) == "stages.a: resume: there is no 'x'; name a run"
    assert str(UserError("plain").within("stages.a")) == "stages.a: plain"


def test_several_are_a_line_each_and_survive_another_process():
    errors = ConfigErrors([UserError("a", "b"), "a: b", UserError("c", "d", "e")])
    for each in (errors, pickle.loads(pickle.dumps(errors))):
        assert str(each) == "a: b\nc: d; e"
        assert list(map(str, each.errors)) == ["a: b", "c: d; e"]
    raise_all([])


def test_words_of_others():
    assert first_line(ValueError("\nfirst:\nsecond")) == "first"
    assert first_line(KeyError()) == "KeyError"
    assert first_sentence(ValueError("One\n thing. Another.")) == "One thing"


def test_nearest_names():
    assert nearest_name("sed", ["lr", "seed"]) == "seed" and nearest_name("x", ["seed"]) is None
    assert did_you_mean(None) == "" and did_you_mean("a") == "did you mean 'a'?"
    assert nearest("sed", ["seed", "lr"]) == "did you mean 'seed'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b" and nearest("zzz", []) == "known: none"


MANY = ["adam", "adamw", "sgd", *(f"name_{i}" for i in range(40))]


def test_a_long_list_is_cut_to_the_nearest():
    assert nearest("adwm", MANY) == "did you mean 'adam'?"
    assert nearest("nbme", MANY).startswith("did you mean 'name_")
    assert nearest("dagam_w_x", MANY) == "the nearest of 43: adamw, adam, name_0"
    assert nearest("zzz", MANY) == "known: adam, adamw, name_0 and 40 more"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("notes.py", "setup.py"),
        ("data.csv", "mine.csv"),
        ("evaluate.zzz", "evaluate.attack"),
        ("val/foo", "val/loss"),
        ("folder/cat", "folder/dog"),
    ],
)
def test_a_suggestion_shares_more_than_an_ending_or_a_section(name, other):
    assert nearest_name(name, [other]) is None
    assert "did you mean" not in nearest(name, [other])


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Fixmatch", "fixmatch"),
        ("notse.py", "notes.py"),
        ("val/acuracy", "val/accuracy"),
        ("evaluate.atack", "evaluate.attack"),
        ("emty.csv", "empty.csv"),
    ],
)
def test_a_slip_is_found(name, other):
    assert nearest(name, [other, "zzz"]) == f"did you mean '{other}'?"
