import pytest
import torch

from methods.metric_learning.improved_triplet import ImprovedTriplet
from methods.metric_learning.triplet import Triplet
from tests.support.metric_batches import X, Y, batch, of


def test_without_the_second_term_it_is_the_triplet_loss_below_its_margin():
    x, labels = batch(1)
    found = of(ImprovedTriplet(pos_weight=0.0), x, labels)
    expected = of(Triplet(1.0, reduction="mean_all"), x, labels) - 1
    torch.testing.assert_close(found, expected)


def test_its_lower_bound_is_below_0():
    near = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).repeat_interleave(2, 0)
    labels = torch.tensor([0, 0, 1, 1])
    assert float(of(ImprovedTriplet(), near, labels)) == pytest.approx(-0.99998)
    assert float(of(ImprovedTriplet(form="hinge"), near, labels)) == 0


def test_both_forms_have_one_gradient():
    gradients = []
    for form in ("max", "hinge"):
        x = X.clone().requires_grad_()
        of(ImprovedTriplet(form=form), x, Y).backward()
        gradients.append(x.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_a_positive_counts_once_for_each_negative():
    """From the triplets one by one, in classes of several sizes."""
    x, labels = batch(5, rows=12, classes=3)
    d = (x[:, None] - x).square().sum(2)
    terms = [
        torch.maximum(d[a, p] - d[a, n], d.new_tensor(-1.0)) + 0.5 * d[a, p].clamp_min(2.0)
        for a in range(12)
        for p in range(12)
        for n in range(12)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    found = of(ImprovedTriplet(pos_margin=2.0, pos_weight=0.5), x, labels)
    torch.testing.assert_close(found, torch.stack(terms).mean())
