import torch

from methods.metric_learning.pairs import (
    distances,
    log_one_plus_sum_exp,
    log_sum_exp,
    mean_where,
    pairs_of,
    squared_distances,
)
from tests.methods.metric_learning.fixture import X, Y


def test_counts_of_the_fixture():
    pairs = pairs_of(Y)
    assert (int(pairs.positive.sum()), int(pairs.negative.sum())) == (8, 22)
    assert int((pairs.positive.sum(1) * pairs.negative.sum(1)).sum()) == 26
    d = squared_distances(X, X)
    assert abs(float(mean_where(d, pairs.positive)) - 0.7877498131) < 1e-9
    assert abs(float(mean_where(d, pairs.negative)) - 1.7331708479) < 1e-9


def test_a_missing_label_takes_part_in_no_pair():
    pairs = pairs_of(torch.tensor([0, -1, -1, 0]))
    assert pairs.anchors.tolist() == [True, False, False, True]
    assert pairs.positive.nonzero().tolist() == [[0, 3], [3, 0]]
    assert not pairs.negative.any()


def test_against_a_memory_no_position_is_self():
    pairs = pairs_of(torch.tensor([0, 1]), torch.tensor([0, 1, -1]))
    assert pairs.positive.tolist() == [[True, False, False], [False, True, False]]
    assert pairs.negative.tolist() == [[False, True, False], [True, False, False]]


def test_duplicates_have_a_distance_and_a_gradient_of_zero():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    d = distances(x, x)
    assert d[0, 1] == 0
    d[0, 1].backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_near_points_far_from_the_origin_keep_their_distance():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = (1e-2 * x + 50).float()
    expected = (far.double()[:, None] - far.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(far, far).double(), expected, rtol=1e-4, atol=1e-9)


def test_sums_over_nothing_have_finite_gradients():
    z = torch.randn(2, 3, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    one, none = log_one_plus_sum_exp(z, mask), log_sum_exp(z, mask)
    assert one[1] == 0 and none[1] < -1000
    torch.testing.assert_close(one[0], torch.log1p(z[0, [0, 2]].exp().sum()))
    torch.testing.assert_close(none[0], z[0, [0, 2]].exp().sum().log())
    torch.logaddexp(none, none.flip(0)).sum().backward()
    assert z.grad.isfinite().all() and z.grad[1].abs().sum() == 0
