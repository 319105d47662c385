import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.semi_supervised import propagation
from methods.semi_supervised.propagation import (
    affinity,
    balancing_weights,
    certainty_of,
    neighbor_graph,
    neighbors_of_all,
    normalized,
    propagate,
    seeds,
    similarities,
    spread,
)

EXACT = {"steps": 1000, "tolerance": 1e-14}


def chain(length: int = 4) -> torch.Tensor:
    """W of the path 0 - 1 - 2 - … with unit weights."""
    w = torch.zeros(length, length, dtype=torch.float64)
    steps = torch.arange(length - 1)
    w[steps, steps + 1] = w[steps + 1, steps] = 1.0
    return w.to_sparse_csr()


def blobs(rows: int = 60, width: int = 5, classes: int = 3, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(classes, width, generator=source)
    own = torch.arange(rows) % classes
    return centers[own] + torch.randn(rows, width, generator=source)


def rows_of(z: torch.Tensor) -> torch.Tensor:
    return z / z.sum(1, keepdim=True)


ENDS = torch.tensor([0, -1, -1, 1])
HALF = [[0.962963, 0.037037], [0.777778, 0.222222]]
NEARLY_ONE = [[0.522020, 0.477980], [0.507438, 0.492562]]


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, HALF), (0.99, NEARLY_ONE)])
def test_a_chain_with_a_label_at_each_end(alpha, expected):
    z = spread(normalized(chain()), seeds(ENDS, 2), alpha, **EXACT)
    mirrored = [row[::-1] for row in reversed(expected)]
    np.testing.assert_allclose(rows_of(z), [*expected, *mirrored], atol=5e-7)


def test_certainty_of_the_chain_and_its_share_of_the_largest():
    graph = normalized(chain())
    z = spread(graph, seeds(ENDS, 2), 0.5, **EXACT)
    certainty = certainty_of(z).certainty.tolist()
    assert certainty == pytest.approx([0.771462, 0.235795, 0.235795, 0.771462], abs=1e-6)
    found = propagate(graph, ENDS, 2, alpha=0.5, **EXACT)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.certainty.tolist() == pytest.approx([1, 0.305648, 0.305648, 1], abs=1e-6)
    absolute = propagate(graph, ENDS, 2, alpha=0.5, relative=False, **EXACT)
    assert absolute.certainty.tolist() == pytest.approx([1, 0.235795, 0.235795, 1], abs=1e-6)


def test_without_alpha_labels_stay_where_they_are():
    graph = normalized(chain())
    assert torch.equal(spread(graph, seeds(ENDS, 2), 0.0, **EXACT), seeds(ENDS, 2))
    found = propagate(graph, ENDS, 2, alpha=0.0)
    assert found.labels.tolist() == ENDS.tolist()
    assert found.certainty.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("alpha", [0.3, 0.9, 0.99])
def test_conjugate_gradients_end_at_the_solution_of_the_dense_system(alpha):
    graph = neighbor_graph(blobs(90), 7, 3.0)
    labels = torch.full((90,), -1)
    labels[:6] = torch.tensor([0, 1, 2, 0, 1, 2])
    y = seeds(labels, 3)
    dense = np.eye(90) - alpha * graph.to_dense().numpy()
    np.testing.assert_allclose(
        spread(graph, y, alpha, **EXACT), np.linalg.solve(dense, y.numpy()), rtol=1e-8, atol=1e-10
    )


def test_the_solution_minimizes_the_objective_of_the_paper():
    """(α/2) Σ_ij w_ij ‖z_i/√d_i - z_j/√d_j‖² + (1-α) ‖Y - Z‖²: its gradient is zero at (1-α) Z."""
    x, alpha = F.normalize(blobs(40), dim=1), 0.8
    neighbors = neighbors_of_all(x, 5)
    w = affinity(similarities(x, neighbors), neighbors, 3.0).to_dense()
    labels = torch.full((40,), -1)
    labels[:3] = torch.arange(3)
    y = seeds(labels, 3)
    z = (1 - alpha) * spread(normalized(w.to_sparse_csr()), y, alpha, **EXACT)
    z.requires_grad_()
    scaled = z / w.sum(1).sqrt()[:, None]
    distances = (scaled[:, None] - scaled[None]).square().sum(2)
    loss = alpha / 2 * (w * distances).sum() + (1 - alpha) * (y - z).square().sum()
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(gradient.abs().max()) < 1e-9


def test_a_class_without_labels_and_a_sample_without_edges_are_no_numbers_apart():
    w = torch.zeros(4, 4, dtype=torch.float64)
    w[0, 1] = w[1, 0] = w[2, 0] = w[0, 2] = 1.0
    graph = normalized(w.to_sparse_csr())
    found = propagate(graph, torch.tensor([0, 1, -1, -1]), 3, alpha=0.5, **EXACT)
    assert found.labels.tolist() == [0, 1, 0, -1]
    assert found.certainty.isfinite().all() and found.certainty[3] == 0


def test_an_undecided_row_has_no_certainty_and_a_decided_one_all():
    z = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, -1.0, 0.0]])
    found = certainty_of(z.double())
    assert found.labels.tolist() == [0, 0, -1, 0]
    assert found.certainty.tolist() == pytest.approx([0, 1, 0, 1])


def test_a_label_stays_where_its_neighbors_outvote_it():
    star = torch.zeros(6, 6, dtype=torch.float64)
    star[0, 1:] = star[1:, 0] = 1.0
    graph, labels = normalized(star.to_sparse_csr()), torch.tensor([1, 0, 0, 0, 0, -1])
    z = spread(graph, seeds(labels, 2, balanced=False), 0.99, **EXACT)
    assert int(z[0].argmax()) == 0
    found = propagate(graph, labels, 2, balanced=False, **EXACT)
    assert found.labels.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.certainty[:5].tolist() == [1] * 5


def test_labels_of_a_frequent_class_weigh_less_each():
    labels = torch.tensor([0, 0, 0, 1, -1])
    assert seeds(labels, 3).tolist() == [[1 / 3, 0, 0]] * 3 + [[0, 1, 0], [0, 0, 0]]
    assert seeds(labels, 3, balanced=False).sum(0).tolist() == [3, 1, 0]


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.0])
def test_the_affinity_is_symmetric_and_has_neither_diagonal_nor_negative_edges(gamma):
    x = F.normalize(blobs(50), dim=1)
    neighbors = neighbors_of_all(x, 20)
    assert float(similarities(x, neighbors).min()) < 0
    w = affinity(similarities(x, neighbors), neighbors, gamma).to_dense()
    assert torch.equal(w, w.T) and float(w.min()) == 0 and not w.diagonal().any()
    expected = torch.zeros(50, 50, dtype=torch.float64)
    for i, others in enumerate(neighbors.tolist()):
        for j in others:
            value = max(float(x[i] @ x[j]), 0.0) ** gamma
            expected[i, j] += value
            expected[j, i] += value
    torch.testing.assert_close(w, expected, atol=1e-6, rtol=0)


def test_opposite_samples_are_not_joined():
    graph = neighbor_graph(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1, 2.0)
    assert not graph.to_dense().any()


def test_the_largest_eigenvalue_of_the_graph_is_one():
    values = torch.linalg.eigvalsh(neighbor_graph(blobs(40), 6, 3.0).to_dense())
    assert float(values.max()) == pytest.approx(1) and float(values.min()) >= -1


@pytest.mark.parametrize("mirrored", [True, False])
def test_neighbors_are_the_most_similar_others(mirrored, monkeypatch):
    monkeypatch.setattr(propagation, "mirrors", lambda x, depth: mirrored)
    monkeypatch.setattr(propagation, "BLOCK", 7 * 45)  # several blocks, the last one smaller
    x = F.normalize(torch.randn(45, 6, generator=torch.Generator().manual_seed(1)), dim=1)
    similarity = (x @ x.T).fill_diagonal_(-2.0)
    assert torch.equal(neighbors_of_all(x, 9), similarity.topk(9, dim=1).indices)
    torch.testing.assert_close(
        similarities(x, neighbors_of_all(x, 9)), similarity.topk(9, dim=1).values
    )


def test_a_duplicate_is_a_neighbor_and_the_sample_itself_is_none():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    assert neighbors_of_all(F.normalize(x, dim=1), 1).tolist() == [[1], [0], [3], [2]]


def test_as_many_neighbors_as_there_are():
    assert neighbors_of_all(torch.eye(3), 50).shape == (3, 2)
    assert neighbors_of_all(torch.ones(1, 4), 50).shape == (1, 0)
    assert propagate(neighbor_graph(torch.ones(1, 4), 5, 3.0), torch.tensor([1]), 2).labels == 1


def test_a_row_of_zeros_has_no_edges():
    graph = neighbor_graph(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]), 2, 3.0).to_dense()
    assert not graph[0].any() and not graph[:, 0].any() and graph[1, 2] > 0


def test_classes_weigh_by_the_inverse_of_their_frequency():
    labels = torch.tensor([0, 0, 0, 1, -1, -1])
    weights = balancing_weights(labels, 2)
    assert weights.tolist() == pytest.approx([4 / 6, 4 / 2])
    assert float(weights[labels[labels >= 0]].mean()) == pytest.approx(1)
    assert balancing_weights(labels, 3)[2] == 0
    assert balancing_weights(torch.full((3,), -1), 2).tolist() == [0, 0]


def test_many_classes_are_solved_in_blocks(monkeypatch):
    graph = neighbor_graph(blobs(60), 7, 3.0)
    labels = torch.where(torch.arange(60) < 6, torch.arange(60) % 3, -1)
    whole = propagate(graph, labels, 3)
    monkeypatch.setattr(propagation, "COLUMNS", 2)
    parts = propagate(graph, labels, 3)
    assert torch.equal(whole.labels, parts.labels)
    torch.testing.assert_close(whole.certainty, parts.certainty)


def test_blobs_are_labeled_by_one_label_each():
    truth = torch.arange(120) % 3
    labels = torch.where(torch.arange(120) < 3, truth, -1)
    found = propagate(neighbor_graph(blobs(120, width=16), 10, 3.0), labels, 3)
    assert float((found.labels == truth).float().mean()) > 0.95
    assert math.isclose(float(found.certainty.max()), 1.0)


LARGE = """
import torch
from recipes.engine.hardware import resident_memory
from methods.semi_supervised.propagation import neighbor_graph, propagate
rows, classes = {rows}, 10
x = torch.randn(rows, 128, generator=torch.Generator().manual_seed(0))
labels = torch.where(torch.arange(rows) < 400, torch.arange(rows) % classes, -1)
start = resident_memory(most=True)
found = propagate(neighbor_graph(x, 50, 3.0), labels, classes)
assert found.certainty.isfinite().all() and int(found.labels.max()) < classes
print(resident_memory(most=True) - start)
"""


@pytest.mark.slow
def test_memory_grows_with_samples_times_neighbors():
    """A hundred thousand samples: the similarities of all pairs would take 40 GB."""
    peaks = {}
    for rows in (50_000, 100_000):
        code = LARGE.format(rows=rows)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        peaks[rows] = int(run.stdout)
    per_edge = 2 * (8 + 8 + 8)  # both directions: row, column, weight
    assert peaks[100_000] < 5 * per_edge * 50 * 100_000
    # a quadratic growth would be fourfold; what imports have freed is not in the smaller peak
    assert peaks[100_000] < 3 * peaks[50_000]
