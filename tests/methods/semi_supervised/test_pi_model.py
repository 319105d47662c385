import math
from itertools import combinations
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from methods.semi_supervised.pi_model import PiModel, mutual_exclusivity, stability
from tests.support.harness import Setup, noisy_view, step_with, train


def probabilities(*seeds: int, rows: int = 8, classes: int = 4) -> list[torch.Tensor]:
    logits = (
        2 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    )
    return [torch.softmax(z, 1) for z in logits]


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.7, 0.2, 0.1], -0.582),
        ([1 / 3] * 3, -0.444444),
        ([0.0, 1.0, 0.0], -1.0),
        ([0.1] * 10, -0.387420),
    ],
)
def test_mutual_exclusivity_worked_examples(p, expected):
    assert float(mutual_exclusivity(torch.tensor([p]))) == pytest.approx(expected, abs=1e-6)


def test_mutual_exclusivity_against_the_plain_sum():
    (p,) = probabilities(0)
    for row, value in zip(p.tolist(), mutual_exclusivity(p).tolist(), strict=True):
        plain = -sum(
            a * math.prod(1 - b for j, b in enumerate(row) if j != i) for i, a in enumerate(row)
        )
        assert value == pytest.approx(plain, abs=1e-6)


def test_mutual_exclusivity_has_a_finite_gradient_at_one_hot():
    p = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    mutual_exclusivity(p).sum().backward()
    assert torch.isfinite(p.grad).all()


def test_stability_is_mse_summed_over_pairs_and_symmetric():
    a, b, c = probabilities(0, 1, 2)
    torch.testing.assert_close(stability([a, b]).mean(), F.mse_loss(a, b))
    expected = sum(F.mse_loss(x, y) for x, y in combinations((a, b, c), 2))
    torch.testing.assert_close(stability([a, b, c]).mean(), expected)
    torch.testing.assert_close(stability([b, a]), stability([a, b]))


class Sizes:  # what the method reads of a recipe
    sizes: ClassVar = {"labeled": 24, "unlabeled": 48}


def passes(detach: bool = False, **settings):
    method = PiModel(consistency_on="unlabeled", detach=detach, **settings)
    method.key = "pi_model"
    logits = [
        torch.randn(5, 3, generator=torch.Generator().manual_seed(i)).requires_grad_()
        for i in (0, 1)
    ]
    at = step_with({"unlabeled/weak": logits[0], "unlabeled/weak2": logits[1]}, progress=(1, 1))
    method.terms(at, Sizes())
    return at.terms, logits


def test_gradient_flows_through_both_branches_unless_detached():
    terms, (a, b) = passes()
    terms["pi_model"].reduced().backward()
    assert a.grad.abs().sum() > 0 and b.grad.abs().sum() > 0
    both = a.grad.clone()
    terms, (a, b) = passes(detach=True)
    terms["pi_model"].reduced().backward()
    assert b.grad is None
    torch.testing.assert_close(a.grad, both)


def test_weight_holds_ramp_and_labeled_fraction():
    assert passes(weight=100.0)[0]["pi_model"].weight == pytest.approx(50.0)
    assert passes(weight=100.0, label_fraction=False)[0]["pi_model"].weight == pytest.approx(100.0)
    method = PiModel(
        label_fraction=False, ramp="sigmoid", ramp_end=1.0, weight=1.0, consistency_on="unlabeled"
    )
    method.key, z = "it", torch.zeros(2, 3)
    for done, expected in (
        (0, 0.00673795),
        (1, 0.0600547),
        (2, 0.2865048),
        (3, 0.7316156),
        (4, 1.0),
    ):
        at = step_with({"unlabeled/weak": z, "unlabeled/weak2": z}, progress=(done, 4))
        method.terms(at, Sizes())
        assert at.terms["it"].weight == pytest.approx(expected, rel=1e-5)


def test_equal_views_of_a_deterministic_network_agree():
    def one_view(stream, view, randomness):
        return noisy_view(stream, "weak", randomness)

    pi = train({"pi_model": PiModel(ramp="constant")}, steps=3, view=one_view)
    plain = train(steps=3, view=one_view)
    assert [row["train/pi_model"] for row in pi.history] == [0, 0, 0]
    for name, value in plain.parameters.items():
        torch.testing.assert_close(pi.parameters[name], value, atol=1e-6, rtol=0)


def test_dropout_alone_makes_passes_differ():
    def one_view(stream, view, randomness):
        return noisy_view(stream, "raw", randomness)

    pi = train({"pi_model": PiModel()}, steps=1, view=one_view, dropout=0.5, kind="text")
    assert pi.history[0]["train/pi_model"] > 0


def test_weight_zero_is_supervised_training():
    pi, plain = train({"pi_model": PiModel(weight=0.0)}, steps=3), train(steps=3)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(pi.parameters[name], value, atol=1e-6, rtol=0)


def test_passes_ask_for_as_many_views_and_shared_ones_are_forwarded_once():
    method = PiModel(passes=3, exclusivity_weight=0.1)
    composition = Setup().composition({"pi_model": method})
    assert composition.views == {
        "labeled": ("weak", "weak2", "weak3"),
        "unlabeled": ("weak", "weak2", "weak3"),
    }
    result = train({"pi_model": method}, steps=1)
    # the labeled weak view is the supervised input itself: 3 × (6 + 12), not 18 + 6 more
    assert result.recipe.network.sizes == [54]
    assert -3 <= result.history[0]["train/pi_model/exclusivity"] < -3 * 0.44
