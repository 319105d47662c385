from itertools import combinations

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from foundation import devices
from methods.metric_learning.clustering import Clustering, class_indices, clusters_disagree
from methods.metric_learning.medoids import (
    Problem,
    assignment_to,
    choose_medoids,
    disagreements,
    greedy,
)
from tests.support.comparison import same
from tests.support.metric_batches import X, Y, batch, of


def problem(x, labels, gamma=1.0, mean="geometric"):
    known = (labels >= 0).to(x)
    return Problem(torch.cdist(x, x), class_indices(labels), known, gamma, mean)


def score(given: Problem, medoids: torch.Tensor) -> float:
    """F(S) + γ Δ."""
    nearest = given.distances[:, medoids].amin(1)
    return float(-nearest.sum() + given.gamma * clusters_disagree(given, medoids))


def test_greedy_choice_of_the_fixture():
    found = greedy(problem(X, Y), 3, torch.tensor(3))
    assert found.tolist() == [3, 4, 0]
    given = problem(X, Y, gamma=0.0)
    assert score(given, found) == pytest.approx(-1.5398292341, abs=1e-9)


def test_the_best_medoids_of_the_fixture():
    given = problem(X, Y)
    best = max(combinations(range(6), 3), key=lambda s: score(given, torch.tensor(s)))
    assert best == (1, 4, 5)
    assert float(clusters_disagree(given, torch.tensor(best))) == pytest.approx(0.5431123474)
    assert score(given, torch.tensor(best)) + 2.1925328788 == pytest.approx(1.1866704940)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
@pytest.mark.parametrize("seed", range(3))
def test_disagreement_of_every_candidate_is_that_of_its_clusters(seed, mean):
    """Counts that move with a candidate, against scikit-learn on clusters made anew."""
    x, labels = batch(seed, rows=10, classes=3)
    labels[4] = -1
    given = problem(x, labels, mean=mean)
    medoids = torch.tensor([0, 3, -1])
    found = disagreements(given, assignment_to(given, medoids), 2)
    known = labels >= 0
    for candidate in (1, 2, 5, 9):
        medoids[2] = candidate
        clusters = assignment_to(given, medoids).cluster
        truth = labels[known].tolist(), clusters[known].tolist()
        expected = 1 - normalized_mutual_info_score(*truth, average_method=mean)
        assert float(found[candidate]) == pytest.approx(expected, abs=1e-9)
        assert float(clusters_disagree(given, medoids)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_medoids_are_at_most_as_good_as_the_best_and_swaps_do_not_harm_much(seed):
    x, labels = batch(seed, rows=8, classes=3)
    given = problem(x, labels)
    best = max(score(given, torch.tensor(s)) for s in combinations(range(8), 3))
    found = score(given, choose_medoids(given, 5))
    assert found <= best + 1e-9
    assert found >= best - 0.25 * abs(best)


def test_separated_classes_cost_nothing_without_gamma():
    x = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0) + 0.01 * batch(1, 12, 3, 3)[0]
    labels = torch.arange(3).repeat_interleave(4)
    assert float(of(Clustering(gamma=0.0), x, labels)) == pytest.approx(0, abs=1e-9)


def test_gradients_are_those_of_distances_to_chosen_medoids():
    x, labels = batch(2, rows=12, classes=4)
    given = problem(x, labels)
    medoids = choose_medoids(given, 5)
    own = medoids[assignment_to(given, medoids).cluster]
    delta = clusters_disagree(given, medoids)
    of_class = [torch.nonzero(labels == c).flatten() for c in range(4)]

    def expected(z: torch.Tensor) -> torch.Tensor:
        truth = z.new_zeros(())
        for members in of_class:
            costs = [(z[members] - z[j]).norm(dim=1).sum() for j in members]
            truth = truth + torch.stack(costs).amin()
        others = own != torch.arange(12)
        return truth - (z - z[own])[others].norm(dim=1).sum() + delta

    same(lambda z: of(Clustering(), z, labels), expected, x)


def test_a_device_that_may_not_be_waited_for_finds_the_same(monkeypatch):
    x, labels = batch(3, rows=10, classes=3)
    labels[0] = -1
    expected = of(Clustering(), x, labels)
    monkeypatch.setattr(devices, "readable", lambda tensor: False)
    torch.testing.assert_close(of(Clustering(), x, labels), expected)
