"""Values for each sample: in evaluation, its metrics and its report, at prediction, and nowhere else
where no method gives any."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.utils.data import DataLoader

from methods.adversarial.smoothing import Smoothing
from recipes.contract import Method, Remark
from recipes.contract.remark import columns
from recipes.engine.recipe import Recipe
from recipes.engine.remarked import Remarked
from tests.support.harness import Batches, Setup, build, small_trainer


class Brightness(Method):
    """The mean pixel, with an alarm; and the confidence, which flags nothing."""

    def __init__(self, alarm=0.5):
        self.alarm = alarm

    def remark(self, embedded, logits, index, context):
        bright = embedded.x.flatten(1).mean(1)
        confidence = logits["label"].softmax(1).amax(1)
        return {
            "bright": Remark(bright, torch.tensor(self.alarm)),
            "confidence": Remark(confidence),
        }


def after_test(methods, setup=None):
    """The recipe after a test on all batches of the small run, and the pixels it saw."""
    setup = setup or Setup(steps=4)
    recipe = build(methods, setup)
    batches = [batch["labeled"] for batch in setup.batches({"labeled"})]
    for number, batch in enumerate(batches):
        batch["index"] = torch.arange(6) + 6 * (len(batches) - 1 - number)
    small_trainer(setup).test(recipe, DataLoader(Batches(batches), batch_size=None), verbose=False)
    return recipe, torch.cat([batch["data"] for batch in reversed(batches)]).float() / 255


def test_values_of_all_samples_in_their_order_and_the_share_above_the_alarm():
    recipe, pixels = after_test({"a": Brightness(), "b": Brightness(torch.inf)})
    remarked = recipe.reported.remarked
    bright = pixels.flatten(1).mean(1)
    assert remarked.index.tolist() == list(range(24))
    assert list(remarked.values) == [
        *("a/bright", "a/bright_flagged", "a/confidence"),
        *("b/bright", "b/bright_flagged", "b/confidence"),
    ]
    torch.testing.assert_close(remarked.values["a/bright"], bright)
    share = float((bright > 0.5).float().mean())
    assert 0.1 < share < 0.9
    assert recipe.latest["test/a/bright_flagged"] == pytest.approx(share)
    assert recipe.latest["test/b/bright_flagged"] == 0
    assert "test/a/confidence_flagged" not in recipe.latest
    with torch.no_grad():
        expected = recipe.eval().predict_logits(pixels)["label"].softmax(1).amax(1)
    torch.testing.assert_close(remarked.values["a/confidence"], expected)


def test_an_alarm_that_is_not_known_is_no_metric():
    recipe, _ = after_test({"a": Brightness(torch.nan)})
    assert "test/a/bright_flagged" not in recipe.latest
    assert recipe.reported.remarked.values["a/bright_flagged"].isnan().all()


def test_without_a_method_that_says_anything_nothing_is_asked():
    with patch.object(Remarked, "compute", side_effect=AssertionError):
        recipe, _ = after_test({})
    plain = recipe.network.calls
    assert plain == 4, "a forward for each batch"
    assert recipe.remarks(None) == {}
    assert after_test({"a": Brightness()})[0].network.calls == plain, "logits are made once"


def test_a_method_is_told_of_the_input_before_any_method_changes_it():
    recipe, pixels = after_test({"smoothing": Smoothing("mean", 5), "a": Brightness()})
    bright = pixels.flatten(1).mean(1)
    torch.testing.assert_close(recipe.reported.remarked.values["a/bright"], bright)


def test_a_prediction_without_one_method():
    setup = Setup()
    recipe = build({"smoothing": Smoothing("mean", 3)}, setup).eval()
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    embedded = recipe.network.embed(x)
    plain = recipe.predict(embedded, raw=True)["label"]
    assert torch.equal(recipe.predict(embedded, without="smoothing")["label"], plain)
    assert not torch.equal(recipe.predict(embedded, without="other")["label"], plain)


def test_no_evaluated_heads_still_give_values():
    setup = Setup(steps=2)
    methods = {"a": Brightness()}
    parts = replace(build(methods, setup)._parts, classifies=False, network=setup.network())
    recipe = Recipe(parts)
    batches = [batch["labeled"] for batch in setup.batches({"labeled"})]
    loader = DataLoader(Batches(batches), batch_size=None)
    small_trainer(setup).test(recipe, loader, verbose=False)
    assert len(recipe.reported.remarked.values["a/bright"]) == 12


def test_columns_have_no_graph():
    values = torch.ones(2, requires_grad=True)
    found = columns({"v": Remark(values, torch.tensor(0.5))})
    assert [column.requires_grad for column in found.values()] == [False, False]
    assert found["v_flagged"].tolist() == [1, 1]
