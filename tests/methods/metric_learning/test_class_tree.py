import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import squareform

from methods.metric_learning.class_tree import (
    ClassMeans,
    lowest_common_level,
    nodes,
    thresholds,
    walk,
)
from tests.support.metric_batches import X, Y, batch


def distances(means: torch.Tensor) -> torch.Tensor:
    return 2 - 2 * means @ means.T


def test_distances_of_the_fixture():
    found = ClassMeans.of(X, Y, 3)
    d = distances(found.means)
    expected = [1.04249002, 3.13715804, 1.69923253]
    assert d[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx(expected, abs=1e-8)
    assert found.spreads().tolist() == pytest.approx([0.71699975, 1.0, 0.85849988], abs=1e-8)
    assert float(found.base()) == pytest.approx(0.85849988, abs=1e-8)


def test_levels_of_the_fixture():
    found = ClassMeans.of(X, Y, 3)
    limits = thresholds(found.base(), 16)
    assert float(limits[1]) == pytest.approx(1.05484363, abs=1e-8)
    assert float(limits[5]) == pytest.approx(1.84021866, abs=1e-8)
    assert float(limits[16]) == 4
    node = nodes(found.means, limits)
    level = lowest_common_level(node, node)
    assert level.tolist() == [[0, 1, 5], [1, 0, 5], [5, 5, 0]], "0 and 2 are linked by class 1"


def test_means_give_the_distances_of_all_pairs_of_samples():
    x, labels = batch(0, rows=40)
    labels[::6] = -1
    found = ClassMeans.of(x, labels, 7)
    unit = torch.nn.functional.normalize(x, dim=1)
    d, spread = distances(found.means), found.spreads()
    for p in range(5):
        for q in range(5):
            pairs = torch.cdist(unit[labels == p], unit[labels == q]).square()
            if p == q:
                own = pairs.sum() / (len(pairs) ** 2 - len(pairs))
                torch.testing.assert_close(spread[p], own)
            else:
                torch.testing.assert_close(d[p, q], pairs.mean())
    assert found.counts[5:].tolist() == [0, 0]


def test_classes_of_one_sample_have_the_mean_spread():
    x = torch.eye(3)
    found = ClassMeans.of(x, torch.arange(3), 3)
    assert found.spreads().tolist() == [0, 0, 0] and found.base() == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_is_the_minimum_spanning_tree(seed):
    means = 0.8 * torch.nn.functional.normalize(batch(seed, rows=30)[0], dim=1)
    order, reached = walk(means)
    assert order.sort().values.tolist() == list(range(30))
    tree = minimum_spanning_tree(distances(means).fill_diagonal_(0).numpy())
    expected = torch.from_numpy(tree.data).sort().values
    torch.testing.assert_close(reached[1:].sort().values, expected)


@pytest.mark.parametrize("seed", range(3))
def test_nodes_are_single_linkage_cut_at_every_limit(seed):
    means = 0.8 * torch.nn.functional.normalize(batch(seed, rows=30)[0], dim=1)
    d = distances(means).fill_diagonal_(0)
    tree = linkage(squareform(d.numpy(), checks=False), "single")
    steps = walk(means)[1][1:].sort().values
    limits = (steps[1:] + steps[:-1]) / 2
    node = nodes(means, limits)
    for level, limit in enumerate(limits.tolist()):
        clusters = torch.from_numpy(fcluster(tree, limit, "distance"))
        theirs = clusters[:, None] == clusters
        assert torch.equal(node[:, None, level] == node[:, level], theirs)
    assert [len(at_level.unique()) for at_level in node.T] == list(range(29, 1, -1))


def test_the_lowest_common_level_is_found_from_nodes():
    node = torch.tensor([[0, 0, 0], [1, 1, 0], [2, 1, 0], [3, 2, 1]])
    expected = [[0, 2, 2, 2], [2, 0, 1, 2], [2, 1, 0, 2], [2, 2, 2, 0]]
    assert lowest_common_level(node, node).tolist() == expected


def test_a_distance_equal_to_a_limit_does_not_link():
    means = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    assert nodes(means, torch.tensor([2.0, 2.0 + 1e-9], dtype=torch.float64)).tolist() in (
        [[0, 1], [1, 1]],
        [[1, 1], [2, 1]],
    )
