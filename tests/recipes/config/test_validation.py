"""Validation of a composed tree: each kind of fault gives its line, all faults come at once, sound
trees pass."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field

from recipes.config.signatures import describe, fits
from recipes.config.validation import validate as errors_of
from recipes.contract import method as methods

Fraction = Annotated[float, Field(ge=0, le=1)]
HERE = __name__


class Inner:
    def __init__(self, size: Annotated[int, Field(ge=1)] = 4):
        self.size = size


class Method(methods.Method):
    def __init__(
        self,
        tau: Fraction = 0.95,
        steps: int = 3,
        mode: Literal["all", "kept"] = "all",
        inner: Inner | None = None,
        betas: tuple[Fraction, Fraction] = (0.9, 0.99),
        hard: bool = True,
        options: Mapping[str, Any] | None = None,
    ):
        pass


def validate(config: Any) -> list[str]:
    """The lines of all errors."""
    return list(map(str, errors_of(config)))


def needs(model: Any, name: str, tasks: Mapping[str, int]) -> None: ...


def supplied(info: Any, tasks: Any, /, size: int = 1) -> None: ...


def open_ended(size: int = 1, **rest: Any) -> None: ...


def tree(method: dict[str, Any] | None = None, **root: Any) -> Any:
    """A sound tree with one method's node, and changes at the root."""
    sections = {
        name: {} for name in ("data", "network", "optimizer", "scheduler", "trainer", "logger")
    }
    method = {"_target_": f"{HERE}.Method"} | (method or {})
    top = {"seed": 0, "run_dir": "out", "dry_run": False, "resume": None, "recipe": "r"}
    return OmegaConf.create(top | sections | {"methods": {"m": method}} | root)


def test_a_sound_tree_has_no_faults():
    full = {
        "tau": 1,
        "steps": 2,
        "mode": "kept",
        "betas": [0.5, 0.9],
        "hard": False,
        "options": {"a": [1]},
    }
    assert validate(tree(full | {"inner": {"_target_": f"{HERE}.Inner", "size": 2}})) == []


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({"tau": 1.5}, "methods.m.tau: got 1.5, expected a number between 0 and 1"),
        (
            {"tau": "0.9"},
            "methods.m.tau: got '0.9', expected a number between 0 and 1; write it without quotes",
        ),
        ({"tau": True}, "methods.m.tau: got True, expected a number between 0 and 1"),
        ({"tau": None}, "methods.m.tau: got None, expected a number between 0 and 1"),
        ({"steps": True}, "methods.m.steps: got True, expected a whole number"),
        ({"steps": 2.0}, "methods.m.steps: got 2.0, expected a whole number"),
        ({"hard": 1}, "methods.m.hard: got 1, expected true or false"),
        (
            {"mode": "keep"},
            "methods.m.mode: got 'keep', expected one of: all, kept; did you mean 'kept'?",
        ),
        (
            {"betas": [0.9]},
            "methods.m.betas: got [0.9], expected a list of 2, each a number between 0 and 1",
        ),
        ({"tua": 0.9}, "methods.m.tua: unknown key; did you mean 'methods.m.tau'?"),
        ({"inner": 3}, "methods.m.inner: got 3, expected a node with _target_ (Inner) or null"),
        (
            {"inner": {"_target_": f"{HERE}.Inner", "size": 0}},
            "methods.m.inner.size: got 0, expected a whole number at least 1",
        ),
        ({"tau": "???"}, "methods.m.tau: has no value yet; give one: methods.m.tau=…"),
        (
            {"tau": "${nope}"},
            "methods.m.tau: '${nope}' does not resolve: Interpolation key 'nope' not found",
        ),
        (
            {"_target_": f"{HERE}.Methd"},
            f"methods.m._target_: '{HERE}' has no 'Methd'; did you mean 'Method'?",
        ),
        (
            {"_target_": "no_such_package.M"},
            "methods.m._target_: cannot import 'no_such_package.M': there is no module "
            "'no_such_package'",
        ),
    ],
)
def test_each_fault_is_one_line(method, line):
    assert validate(tree(method)) == [line]


@pytest.mark.parametrize(
    ("root", "line"),
    [
        ({"seed": -1}, "seed: got -1, expected a whole number between 0 and 4294967295"),
        ({"seed": "a"}, "seed: got 'a', expected a whole number between 0 and 4294967295"),
        ({"dry_run": "yes"}, "dry_run: got 'yes', expected true or false"),
        ({"resume": 3}, "resume: got 3, expected text or null"),
        ({"sed": 1}, "sed: unknown key; did you mean 'seed'?"),
        ({"data": 5}, "data: got 5, expected a mapping; choose one by data=NAME"),
        ({"methods": 5}, "methods: got 5, expected a mapping; choose methods by FAMILY=METHOD"),
    ],
)
def test_root_keys(root, line):
    assert validate(tree(**root)) == [line]


def test_all_faults_come_at_once():
    faults = validate(tree({"tau": 2, "steps": "x", "nope": 1}, seed=-1))
    assert [line.split(":")[0] for line in faults] == [
        "seed",
        "methods.m.tau",
        "methods.m.steps",
        "methods.m.nope",
    ]


def test_a_value_that_others_are_taken_from_is_one_line():
    taken = {"_target_": f"{HERE}.Inner", "size": "${methods.m.steps}"}
    config = tree({"steps": "x", "inner": taken}, data={"x": taken, "y": {"z": taken}})
    assert validate(config) == ["methods.m.steps: got 'x', expected a whole number"]


def test_a_taken_value_that_fits_there_but_not_here_is_said_here():
    taken = {"_target_": f"{HERE}.Inner", "size": "${methods.m.steps}"}
    config = tree({"steps": 0, "inner": taken})
    assert validate(config) == [
        "methods.m.inner.size: got 0, expected a whole number at least 1",
    ]


def test_a_null_that_many_values_are_taken_from_is_one_line():
    taken = {"size": "${data.view.size}", "shift": "${data.view.shift}"}
    config = tree(data={"view": None, "strong": {"view": taken}})
    assert validate(config) == [
        "data.view: is null, and data.strong.view takes its values from there; expected a mapping"
    ]


def test_a_missing_section_is_named():
    config = tree()
    del config["network"]
    assert validate(config) == ["network: is missing; choose one by network=NAME"]


def test_missing_arguments_but_not_those_of_the_engine():
    assert validate(tree(network={"_target_": f"{HERE}.needs", "name": "x"})) == [
        "network.model: missing; it has no default"
    ]
    assert validate(tree(network={"_target_": f"{HERE}.needs", "_partial_": True})) == []
    assert validate(tree(network={"_target_": f"{HERE}.supplied", "size": 2})) == []
    assert validate(tree(network={"_target_": f"{HERE}.supplied", "info": 2})) == [
        "network.info: unknown key; known: size"
    ]


def test_a_target_that_takes_anything_still_has_its_named_arguments_checked():
    faults = validate(tree(network={"_target_": f"{HERE}.open_ended", "size": "x", "other": 1}))
    assert faults == ["network.size: got 'x', expected a whole number"]


def test_targets_inside_lists_are_found():
    node = {"views": [{"_target_": f"{HERE}.Inner", "size": "big"}]}
    assert validate(tree(data=node)) == [
        "data.views[0].size: got 'big', expected a whole number at least 1"
    ]


def test_interpolated_values_are_checked_by_what_they_resolve_to():
    assert validate(tree({"tau": "${seed}"})) == []
    assert validate(tree({"steps": "${run_dir}"})) == [
        "methods.m.steps: got 'out', expected a whole number"
    ]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[float, Field(gt=0, lt=1)], "a number above 0 and below 1"),
        (Annotated[int, Field(ge=1)] | None, "a whole number at least 1 or null"),
        (Literal["a", 1], "one of: a, 1"),
        (list[int], "a list, each a whole number"),
        (dict[str, Any], "a mapping"),
        (Path, "a path"),
        (tuple[int, str], "a list of 2, a whole number, text"),
    ],
)
def test_annotations_in_plain_words(annotation, words):
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("value", "annotation", "answer"),
    [
        (1, float, True),
        (float("inf"), float, False),
        ("x", Path, True),
        (["a", 1], list[int], False),
        (None, float, False),
        ("auto", Literal["auto"] | int, True),
        (3, Callable[[int], int], False),
    ],
)
def test_what_fits(value, annotation, answer):
    assert fits(value, annotation) is answer
