import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.inverse_class_frequency import InverseClassFrequency, inverse_frequencies
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import COUNTS, LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("inverse class frequency")
Z, Y = 2 * torch.randn(64, 7, generator=SOURCE), torch.randint(7, (64,), generator=SOURCE)
N = torch.bincount(Y, minlength=7) + 1


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("sum_c", (0.0270, 0.2703, 2.7027)),
        ("total", (1.11, 11.1, 111.0)),
        ("balanced", (0.37, 3.7, 37.0)),
        ("min", (0.01, 0.1, 1.0)),
    ],
)
def test_worked_weights(norm, expected):
    found = inverse_frequencies(COUNTS, 1.0, norm)
    torch.testing.assert_close(found, torch.tensor(expected), atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.50758796),
        ({"reduction": "weight"}, 0.37189613),
        ({"norm": "total"}, 20.84663758),
        ({"norm": "total", "reduction": "weight"}, 0.37189613),
        ({"norm": "min"}, 0.18780755),
    ],
)
def test_worked_losses(settings, expected):
    found = losses(InverseClassFrequency(**settings)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-6)
    if settings == {"norm": "total"}:
        found = losses(InverseClassFrequency(**settings)).tolist()
        assert found == pytest.approx([0.45244262, 41.24083254], rel=1e-6)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(7), N.numpy())
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels)
    found = inverse_frequencies(N, 1.0, "balanced").double()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["sum_c", "total", "balanced", "min"])
def test_without_an_exponent_or_an_imbalance_it_is_cross_entropy(norm):
    plain = F.cross_entropy(Z, Y, reduction="none")
    off = InverseClassFrequency(0.0, norm)
    torch.testing.assert_close(losses(off, logits=Z, target=Y, counts=N), plain)
    assert off.idle_settings() == ["gamma"]
    equal = losses(InverseClassFrequency(2.0, norm), logits=Z, target=Y, counts=0 * N + 9)
    factor = 7.0**2 if norm == "total" else 1.0
    torch.testing.assert_close(equal, factor * plain)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_scales(gamma):
    """By the definitions: the sum is C, the mean over samples is 1, the largest is 1."""
    weights = {
        norm: inverse_frequencies(N, gamma, norm) for norm in ("sum_c", "balanced", "min", "total")
    }
    assert float(weights["sum_c"].sum()) == pytest.approx(7)
    assert float((N * weights["balanced"]).sum() / N.sum()) == pytest.approx(1)
    assert float(weights["min"].max()) == 1
    torch.testing.assert_close(weights["total"], (N.sum() / N) ** gamma)


def test_an_absent_class_weighs_nothing_and_does_not_count():
    counts = torch.tensor([9, 0, 1])
    for norm, expected in (
        ("sum_c", (0.2, 0.0, 1.8)),
        ("balanced", (10 / 18, 0.0, 5.0)),
        ("min", (1 / 9, 0.0, 1.0)),
        ("total", (10 / 9, 0.0, 10.0)),
    ):
        assert inverse_frequencies(counts, 1.0, norm).tolist() == pytest.approx(expected)
        assert inverse_frequencies(0 * counts, 1.0, norm).tolist() == [0, 0, 0]


@pytest.mark.parametrize("norm", ["sum_c", "total", "min"])
def test_reduction_by_weight_is_that_of_torch_on_any_scale(norm):
    y = Y.clone()
    y[::5] = -1
    expected = F.cross_entropy(Z, y, inverse_frequencies(N, 1.0, "sum_c"), ignore_index=-1)
    found = losses(
        InverseClassFrequency(norm=norm, reduction="weight"), logits=Z, target=y, counts=N
    )
    torch.testing.assert_close(found.sum() / (y >= 0).sum(), expected)


def test_mixed_targets_and_pseudo_labels():
    mixed = 0.4 * one_hot(Y, 7) + 0.6 * one_hot(Y.flip(0), 7)
    weights = inverse_frequencies(N, 1.0, "sum_c")
    expected = F.cross_entropy(Z, mixed, weights, reduction="none")
    found = losses(InverseClassFrequency(), logits=Z, target=mixed, counts=N)
    torch.testing.assert_close(found, expected)
    pseudo = criterion_of(InverseClassFrequency())(LOGITS, TARGETS, "label", "pseudo")
    torch.testing.assert_close(pseudo, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


def test_in_a_run_the_loss_is_the_weighted_one():
    plain = train(steps=1).losses[0]
    key = "inverse_class_frequency"
    assert abs(train({key: InverseClassFrequency()}, steps=1).losses[0] - plain) > 1e-3
    off = train({key: InverseClassFrequency(0.0)}, steps=1).losses[0]
    assert off == pytest.approx(plain, rel=1e-6)


def test_the_prior_is_corrected_once():
    methods = {"icf": InverseClassFrequency(), "balanced_softmax": BalancedSoftmax()}
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build(methods, Setup())
