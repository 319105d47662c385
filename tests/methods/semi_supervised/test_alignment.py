"""Pseudo-labels that follow the class distribution of the labels, in every method that offers it."""

from functools import partial

import pytest
import torch

from foundation.randomness import Randomness
from methods.semi_supervised.alignment import RecentPredictions
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.flexmatch import FlexMatch
from methods.semi_supervised.mixmatch import MixMatch
from methods.semi_supervised.targets import aligned
from methods.semi_supervised.uda import UDA
from recipes.step import Stream
from tests.support.harness import Setup, noisy_view, train

METHODS = {
    "fixmatch": partial(FixMatch, threshold=0.0),
    "flexmatch": partial(FlexMatch, threshold=0.0),
    "uda": partial(UDA, threshold=0.0),
    "mixmatch": partial(MixMatch, views=1),
}


def weak_predictions(step: int) -> torch.Tensor:
    """q [U, C] of a network that does not learn, in a step."""
    network, batch = (
        Setup().network(),
        Setup(steps=step + 1).batches({"labeled", "unlabeled"})[step],
    )
    with torch.no_grad():
        weak = noisy_view(Stream("unlabeled", **batch["unlabeled"]), "weak", Randomness(0, step))
        return network(network.embed(weak)).logits["label"].softmax(1)


@pytest.mark.parametrize("key", METHODS)
def test_labels_are_those_of_the_formula(key):
    """q · p(y) / p̃(y) of the second step, where p̃ has seen the first."""
    result = train({key: METHODS[key](align=2)}, steps=2, lr=0.0)
    counts = result.recipe.statistics.counts("label")
    seen = (weak_predictions(0).mean(0) + 1 / len(counts)) / 2  # a batch, and one uniform
    scaled = weak_predictions(1) * (counts / counts.sum() + 1e-6) / (seen + 1e-6)
    expected = scaled / scaled.sum(1, keepdim=True)
    pseudo = result.recipe.last_step.pseudo["label"]
    torch.testing.assert_close(pseudo.probabilities, expected, atol=1e-5, rtol=1e-5)
    assert pseudo.labels.equal(expected.argmax(1))
    assert not pseudo.labels.equal(weak_predictions(1).argmax(1)), "alignment changes none of them"


@pytest.mark.parametrize("key", METHODS)
def test_predictions_are_remembered_before_they_are_aligned(key):
    result = train({key: METHODS[key](align=2)}, steps=1, lr=0.0)
    recent = result.recipe.method_modules[f"{key}_recent"]["label"]
    torch.testing.assert_close(recent.batches[0], weak_predictions(0).mean(0))
    assert int(recent.written) == 1 and recent.batches[1].unique().numel() == 1


@pytest.mark.parametrize("key", METHODS)
def test_without_it_nothing_is_kept(key):
    result = train({key: METHODS[key](align=0)}, steps=1)
    assert f"{key}_recent" not in result.recipe.method_modules


def test_a_class_without_a_label_is_never_a_pseudo_label():
    recent = RecentPredictions(3, size=1)
    recent.add(torch.tensor([[0.8, 0.1, 0.1]]))
    q = aligned(torch.tensor([[0.9, 0.05, 0.05]]), torch.tensor([0.0, 0.5, 0.5]), recent.mean())
    assert q[0, 0] < 1e-5 and q.sum() == pytest.approx(1)
