import pytest
import torch

from foundation.errors import UserError
from methods.metric_learning.ranked_list import RankedList
from tests.support.metric_batches import X, Y, batch, of


def by_loops(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    d = torch.cdist(x, x)
    total = x.new_zeros(())
    for i in range(len(x)):
        others = torch.arange(len(x)) != i
        far = d[i, (labels == labels[i]) & others & (d[i] > 0.8)]
        near = d[i, (labels != labels[i]) & (d[i] < 1.2)]
        if len(far):
            total = total + (far - 0.8).mean()
        if len(near):
            weights = torch.softmax(10 * (1.2 - near), 0).detach()
            total = total + (weights * (1.2 - near)).sum()
    return total / len(x)


@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_those_of_loops(seed):
    x, labels = batch(seed)
    values = []
    for loss in (lambda z: of(RankedList(), z, labels), lambda z: by_loops(z, labels)):
        leaf = torch.nn.functional.normalize(x, dim=1).requires_grad_()
        value = loss(leaf)
        value.backward()
        values.append((value.detach(), leaf.grad))
    assert values[0][1].any()
    torch.testing.assert_close(values[0], values[1])


def test_without_temperature_it_is_plain_means():
    d = torch.cdist(X, X)
    terms = [1.2 - d[i, (Y[i] != Y) & (d[i] < 1.2)] for i in range(6)]
    expected = sum(float(t.mean()) for t in terms if len(t)) / 6
    found = of(RankedList(temperature=0.0, pos_weight=0.0), X, Y)
    assert float(found) == pytest.approx(expected)


def test_a_high_temperature_is_the_nearest_negative_and_stays_finite():
    x = X.float().requires_grad_()
    value = of(RankedList(temperature=1e6, pos_weight=0.0), x, Y)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.3}, r"ranked_list\.margin=0\.4: leaves no ball .* expected at most 0\.3"),
        ({"pos_weight": 0, "neg_weight": 0}, r"neg_weight=0 the loss is 0 .* expected one of them"),
        ({"alpha": 2.5}, r"ranked_list\.alpha=2\.5: no two unit vectors .* expected at most 2"),
    ],
)
def test_settings_that_leave_nothing_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        RankedList(**settings)
