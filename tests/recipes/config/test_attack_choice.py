"""`methods.METHOD.attack=NAME`: the same words choose an attack of the group `attack` for a method
and set its keys."""

import pytest

from recipes.config.groups import from_hydra, to_hydra
from recipes.config.resolve import resolve_command
from tests.support.command import roux


@pytest.mark.parametrize(
    ("given", "hydra"),
    [
        ("methods.pgd_at.attack=bim", "+attack@methods.pgd_at.attack=bim"),
        ("methods.pgd_at.attack=bim,mi_fgsm", "+attack@methods.pgd_at.attack=bim,mi_fgsm"),
        ("methods.pgd_at.attack=null", "methods.pgd_at.attack=null"),
        ("methods.pgd_at.attack={_target_: a.B}", "methods.pgd_at.attack={_target_: a.B}"),
        ("methods.pgd_at.attack.steps=3", "methods.pgd_at.attack.steps=3"),
    ],
)
def test_the_words_of_hydra(given, hydra):
    assert to_hydra([given]) == [hydra]
    assert from_hydra(hydra) == given


def test_of_several_choices_the_last_counts():
    given = ["methods.a.attack=bim", "seed=1", "methods.a.attack=dim", "methods.b.attack=bim"]
    assert to_hydra(given) == [
        "seed=1", "+attack@methods.a.attack=dim", "+attack@methods.b.attack=bim"
    ]  # fmt: skip


def test_a_choice_and_its_keys_beside_a_recipe():
    chosen = ["recipe=pgd_at", "methods.pgd_at.attack=mi_fgsm", "methods.pgd_at.attack.steps=3"]
    method = resolve_command(chosen).config.methods.pgd_at
    assert method.eps == 0.1
    assert method.attack._target_.endswith("MIFGSM") and method.attack.steps == 3


MISTAKES = {
    ("attack=bim",): (
        "attack=bim: an attack belongs to a method or to the evaluation; write "
        "methods.pgd_at.attack=bim or evaluate.attack=bim"
    ),
    ("adversarial=pgd_at", "methods.pgd_at.attack=mifgsm"): (
        "methods.pgd_at.attack=mifgsm: there is no attack 'mifgsm'; did you mean 'mi_fgsm'?"
    ),
    ("methods.pgd_at.attack=bim",): (
        "methods.pgd_at.attack: method 'pgd_at' is not part of this run; add adversarial=pgd_at"
    ),
    ("adversarial=pgd_at", "methods.pgd_at.attack=bim", "methods.pgd_at.attack.step_size=3"): (
        "methods.pgd_at.attack.step_size: got 3, expected at most 1, since pixels are in [0, 1]; "
        "write methods.pgd_at.attack.step_size=3/255"
    ),
    ("recipe=trades", "methods.trades.attack=tim"): (
        "methods.trades.attack.reach: got 7: the kernel is 15 pixels wide, and pictures have 8; "
        "expected at most 3"
    ),
    ("evaluate.attack=dim", "evaluate.attack.resize=0.1"): (
        "evaluate.attack.resize: got 0.1, with which 8 pixels become none; expected at least 0.125"
    ),
    ("evaluate.attack=tim", "data=trec"): (
        "evaluate.attack: TIM convolves the gradient over a picture's pixels, and data=trec is "
        "text; expected bim, fgsm, mi_fgsm, ni_fgsm or pgd"
    ),
}


@pytest.mark.parametrize("command", MISTAKES, ids=lambda command: command[-1])
def test_mistakes_are_one_line(command):
    outcome = roux(*command, "dry_run=true")
    assert outcome.code == 2 and outcome.lines == [f"error: {MISTAKES[command]}"]
