import math

import pytest
import torch

from methods.metric_learning.npair import NPair, Pairs, consecutive_pairs, npair
from tests.support.metric_batches import X, batch, of


def test_pairs_are_consecutive_samples_of_a_class():
    labels = torch.tensor([7, 3, 7, -1, 3, 7, 3, -1, 3])
    pairs = consecutive_pairs(torch.arange(9.0)[:, None], labels)
    found = list(zip(pairs.anchors[:, 0].tolist(), pairs.positives[:, 0].tolist(), strict=True))
    assert [p for p, valid in zip(found, pairs.valid, strict=True) if valid] == [
        (1, 4),
        (6, 8),
        (0, 2),
    ]


def test_a_second_pair_of_a_class_shares_the_target():
    anchors, positives = torch.tensor([0, 3, 2]), torch.tensor([1, 4, 0])
    labels = torch.tensor([0, 1, 0])
    pairs = Pairs(X[anchors], X[positives], labels, torch.ones(3, dtype=torch.bool))
    assert float(npair(pairs)) == pytest.approx(1.1015827148, abs=1e-9)


def test_equal_embeddings_cost_log_n():
    labels = torch.arange(5).repeat(2)
    value = of(NPair(l2=0.0), torch.ones(10, 3), labels)
    assert float(value) == pytest.approx(math.log(5), abs=1e-6)


def test_two_pairs_are_a_logistic_loss_of_the_difference():
    x = batch(2, rows=4)[0]
    s = x[[0, 1]] @ x[[2, 3]].T
    expected = torch.nn.functional.softplus(torch.stack([s[0, 1] - s[0, 0], s[1, 0] - s[1, 1]]))
    labels = torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(of(NPair(l2=0.0), x, labels), expected.mean())


def test_it_sees_norms():
    """A loss of three times the embeddings, which one that normalises would not change."""
    x, labels = 3 * X[[0, 1, 3, 4]], torch.tensor([0, 0, 1, 1])
    assert float(of(NPair(l2=0.0), x, labels)) == pytest.approx(1.6653317686, abs=1e-9)


def test_the_regulariser_is_a_quarter_of_the_squared_norms():
    labels = torch.tensor([0, 1, 0, 1])
    x = batch(2, rows=4)[0]
    added = of(NPair(l2=0.4), x, labels) - of(NPair(l2=0.0), x, labels)
    torch.testing.assert_close(added, 0.1 * x.square().sum() / 2)
