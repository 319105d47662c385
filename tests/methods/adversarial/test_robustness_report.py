"""How the report of a run describes an attack, and the attacked samples that it shows."""

from types import SimpleNamespace

import pytest
import torch

from methods.adversarial.robust_accuracy import EXAMPLES, attacked_examples
from methods.adversarial.robustness import PGDRobustness, SquareRobustness
from recipes.report.page import page_html
from recipes.report.record import RunRecord
from recipes.step import Embedded
from tests.methods.adversarial.test_robustness import linear, measured

PGD = (
    "PGD, l∞ radius 0.03137, steps 20, step size 0.007843, restarts 2, loss ce, the first 100 "
    "samples of the test part; clean_accuracy is of the same samples"
)
SQUARE = (
    "Square, l∞ radius 0.1, queries 500, restarts 1, margin loss, all samples of the test part; "
    "clean_accuracy is of the same samples"
)


def test_the_words_hold_attack_radius_steps_and_samples():
    assert PGDRobustness(samples=100).describe() == PGD
    assert SquareRobustness(eps=0.1, queries=500).describe() == SQUARE
    assert PGDRobustness(norm="l2", eps=0.5).describe().startswith("PGD, l2 radius 0.5, ")


def test_the_page_has_them_in_a_card():
    page = page_html(RunRecord("t", measured={"attack": PGD, "retrieval": ""}))
    assert "<h2>Measurements</h2>" in page and f"<li><b>attack</b>: {PGD}</li>" in page
    assert "retrieval" not in page, "it has nothing to add"
    assert "Measurements" not in page_html(RunRecord("t", measured={"retrieval": ""}))


def test_the_first_samples_are_shown_clean_changed_and_attacked():
    recipe, x, y = linear(rows=2 * EXAMPLES)
    probe = PGDRobustness(eps=0.2, steps=3)
    assert probe.exhibit() is None
    measured(probe, recipe, x, y)
    shown = probe.exhibit()
    assert shown.title == "Attacked samples" and len(shown.rows) == EXAMPLES
    for i, (clean, change, attacked) in enumerate(shown.rows):
        assert torch.equal(clean.pixels, x[i])
        moved = attacked.pixels - clean.pixels
        largest = float(moved.abs().max())
        assert 0 < largest <= 0.2 + 1e-6
        assert change.caption == f"change, at most {largest:.3f}"
        torch.testing.assert_close(change.pixels, 0.5 + 0.5 * moved / moved.abs().max())
        for one in (clean, attacked):
            logits = recipe.network(Embedded(one.pixels[None])).logits["label"]
            assert one.label == int(logits.argmax())
            assert one.right == (one.label == int(y[i]))
    # `linear` gives the first sample a wrong label
    assert shown.rows[0][0].right is False and shown.rows[1][0].right is True
    assert any(row[0].right and not row[2].right for row in shown.rows)


def test_of_several_restarts_the_largest_loss_is_shown():
    x = torch.zeros(2, 1, 1, 1)
    points = [x, x + 0.25, x - 0.25]
    target = torch.tensor([0, -1])
    clean, mild, strong = (torch.tensor([[m, -m], [m, -m]]) for m in (2.0, 1.0, -3.0))
    logits = [{"label": values} for values in (clean, mild, strong)]
    rows = attacked_examples(SimpleNamespace(targets={"label": target}), points, logits)
    assert rows[0][2].pixels.item() == pytest.approx(-0.25)
    assert [one.right for one in rows[0]] == [True, None, False]
    assert [one.right for one in rows[1]] == [None, None, None], "its class is not known"
