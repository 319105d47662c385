"""`evaluate.attack=NAME` on the command line: the same words choose a measurement and set its
keys."""

import pytest

from recipes.cli import main as cli
from recipes.cli.help import help_text
from recipes.config.groups import CONFIGS, from_hydra, to_hydra
from tests.support.command import after_first_line


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("evaluate.attack=pgd", "evaluate/attack=pgd"),
        ("evaluate.attack=pgd,fgsm", "evaluate/attack=pgd,fgsm"),
        ("+evaluate.attack=pgd", "+evaluate/attack=pgd"),
        ("~evaluate.attack", "~evaluate/attack"),
        ("evaluate/attack=pgd", "evaluate/attack=pgd"),
        ("evaluate.attack.steps=3", "evaluate.attack.steps=3"),
        ("+evaluate.attack={_target_: a.B}", "+evaluate.attack={_target_: a.B}"),
        ("+evaluate.other=3", "+evaluate.other=3"),
        ("recipe=evaluate.attack", "recipe=evaluate.attack"),
    ],
)
def test_a_choice_is_what_hydra_calls_a_group(said, meant):
    assert to_hydra([said], CONFIGS) == [meant]


def test_groups_are_written_as_users_say_them():
    assert [
        from_hydra(g)
        for g in ("evaluate/attack", "data/strong_text", "recipe", "+evaluate/attack=x")
    ] == [
        "evaluate.attack",
        "data/strong_text",
        "recipe",
        "+evaluate.attack=x",
    ]


def test_an_attack_and_its_keys(configs, engine):
    command = [
        "recipe=fixmatch",
        "evaluate.attack=pgd",
        "evaluate.attack.steps=5",
        "evaluate.attack.eps=8/255",
    ]
    assert cli.main(command, configs) == 0
    ((config, noted, _),) = engine.runs
    assert noted == command
    assert (config.evaluate.attack.steps, config.evaluate.attack.eps) == (5, "8/255")
    assert config.evaluate.attack._target_.endswith("PGDRobustness")


def test_without_a_choice_nothing_is_measured(configs, engine):
    assert cli.main([], configs) == 0
    assert engine.runs[0][0].evaluate == {}


def test_what_a_recipe_says_of_an_attack_that_is_left_out_is_dropped(configs, engine, capsys):
    text = "defaults:\n  - override /evaluate/attack: pgd\nevaluate:\n  attack:\n    eps: 0.1\n"
    (configs / "recipe" / "robust.yaml").write_text(f"# @package _global_\n# Robust\n{text}")
    for choice, left in (("pgd", {"eps": 0.1}), ("square", {"eps": 0.1}), ("none", {})):
        assert cli.main(["recipe=robust", f"evaluate.attack={choice}"], configs) == 0
        found = engine.runs[-1][0].evaluate
        assert {k: v for k, v in found.get("attack", {}).items() if k == "eps"} == left
    assert (
        cli.main(["recipe=robust", "evaluate.attack=none", "evaluate.attack.eps=0.2"], configs) == 2
    )
    # a folder of a run of the same second is named as well
    *_, line = after_first_line(capsys.readouterr().err)
    assert line == "error: evaluate.attack.eps: this run has no attack; add evaluate.attack=NAME"


def test_several_runs_each_with_its_attack(configs, engine):
    assert cli.main(["-m", "evaluate.attack=none,fgsm,pgd"], configs) == 0
    found = [
        config.evaluate.get("attack", {}).get("_target_", "none") for config, _, _ in engine.runs
    ]
    assert [name.rpartition(".")[2] for name in found] == [
        "none",
        "FGSMRobustness",
        "PGDRobustness",
    ]


MISTAKES = {
    "name": (
        ["evaluate.attack=pgdd"],
        "evaluate.attack=pgdd: there is no attack 'pgdd'; did you mean 'pgd'?",
    ),
    "name of many": (
        ["-m", "evaluate.attack=pgd,fgsmm"],
        "evaluate.attack=fgsmm: there is no attack 'fgsmm'; did you mean 'fgsm'?",
    ),
    "no attack": (
        ["evaluate.attack.steps=3"],
        "evaluate.attack.steps: this run has no attack; add evaluate.attack=NAME, known: bim, "
        "black_box, dim, fgsm, mi_fgsm, ni_fgsm, one_pixel, pgd, square, tim",
    ),
    "group": (
        ["evaluate.atack=pgd"],
        "evaluate.atack: unknown key; did you mean 'evaluate.attack'?",
    ),
    "key": (
        ["evaluate.attack=pgd", "evaluate.attack.step=3"],
        "evaluate.attack.step: unknown key; did you mean 'evaluate.attack.steps'?",
    ),
    "range": (
        ["evaluate.attack=pgd", "evaluate.attack.eps=-1"],
        "evaluate.attack.eps: got -1, expected a number at least 0 or a fraction such as 8/255",
    ),
    "list": (
        ["evaluate.attack=[pgd,fgsm]"],
        "evaluate.attack=[pgd,fgsm]: takes one choice, only families take a list",
    ),
    "plus": (
        ["+evaluate.attack=pgd"],
        "+evaluate.attack=pgd: 'evaluate.attack' has a choice already; leave out the +",
    ),
    "several": (
        ["evaluate.attack=pgd,fgsm"],
        "evaluate.attack=pgd,fgsm: several values make several runs: add -m, or "
        "evaluate.attack=[pgd,fgsm] for a list",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name, configs, engine, capsys):
    command, line = MISTAKES[name]
    assert cli.main(command, configs) == 2
    assert after_first_line(capsys.readouterr().err) == [f"error: {line}"]
    assert engine.runs == []


def test_help_lists_the_attacks(configs):
    lines = help_text(configs).splitlines()
    gradient = ["bim", "black_box", "dim", "fgsm", "mi_fgsm", "ni_fgsm"]
    start = lines.index("Attacks at evaluation (evaluate.attack=NAME)")
    assert [line.split()[0] for line in lines[start + 1 : start + 12]] == [
        *gradient, "none", "one_pixel", "pgd", "square", "tim"
    ]  # fmt: skip
    lines = help_text().splitlines()
    start = lines.index("Attacks in training (methods.METHOD.attack=NAME)")
    assert [line.split()[0] for line in lines[start + 1 : start + 11]] == [
        *gradient, "one_pixel", "pgd", "square", "tim"
    ]  # fmt: skip
