from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foundation.randomness import Randomness
from methods.multi_task.losses import TaskLosses
from methods.multi_task.pcgrad import PCGrad, projected_weights
from tests.support.harness import train
from tests.support.worked_multi_task import TASKS, G, J


def orders(seed: int, tasks: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tasks, generator=source) for _ in range(tasks)])


def surgery(gradients: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The algorithm of the paper, on gradients."""
    total = np.zeros(gradients.shape[1])
    for i, row in enumerate(order):
        g = gradients[i].copy()
        for j in row:
            if j != i and g @ gradients[j] < 0:
                g -= (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += g
    return total


def test_worked_example():
    found = [projected_weights(G, orders(seed, 3)).tolist() for seed in range(60)]
    assert {round(w[0], 6) for w in found} == {1.20, 1.24, 1.28}
    assert any(w == pytest.approx([1.24, 1.62, 1.68]) for w in found)
    assert projected_weights(G[:2, :2], orders(0, 2)).tolist() == pytest.approx([1.1, 1.2])


def test_equals_surgery_on_gradients():
    for seed in range(50):
        j = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)).double()
        order = orders(seed, 4)
        expected = surgery(j.numpy(), order.numpy())
        np.testing.assert_allclose(
            (projected_weights(j @ j.T, order) @ j).numpy(), expected, atol=1e-10
        )


def test_properties():
    order, rename = orders(0, 3), torch.tensor([2, 0, 1])
    places = rename.argsort()
    torch.testing.assert_close(projected_weights(G[rename][:, rename], places[order[rename]]),
                               projected_weights(G, order)[rename])  # fmt: skip
    torch.testing.assert_close(projected_weights(7 * G, order), projected_weights(G, order))
    assert projected_weights(torch.diag(torch.tensor([1.0, 9.0])), orders(0, 2)).tolist() == [1, 1]
    assert projected_weights(torch.ones(1, 1), orders(0, 1)).tolist() == [1]
    w = projected_weights(G[:2, :2], orders(0, 2))
    assert ((w @ J[:2]) @ J[:2].T >= -1e-12).all(), "with two tasks no task is hurt"


def test_the_order_is_drawn_anew_and_repeats():
    def weights(seed):
        rows = train({"pcgrad": PCGrad()}, tasks=TASKS, steps=4, seed=seed, lr=1e-6).history
        return [[row[f"train/weight/{task}"] for task in TASKS] for row in rows]

    assert weights(0) == weights(0)
    assert all(w >= 1 - 1e-6 for row in weights(0) for w in row)


def test_the_mean():
    sums = train({"pcgrad": PCGrad()}, tasks=TASKS, steps=1).history[0]
    means = train({"pcgrad": PCGrad(reduction="mean")}, tasks=TASKS, steps=1).history[0]
    for task in TASKS:
        assert means[f"train/weight/{task}"] == pytest.approx(sums[f"train/weight/{task}"] / 3)


def test_every_task_has_an_order_of_its_own():
    """No single order for all tasks gives some of these weights."""
    losses = TaskLosses([], torch.ones(3, dtype=torch.bool), torch.zeros(()))
    method = PCGrad()
    method.key = "pcgrad"
    found = set()
    for position in range(40):
        step = SimpleNamespace(randomness=Randomness(0, position))
        weights = method.solve(G, losses, step).tolist()
        found.add(tuple(round(w, 6) for w in weights))
    shared = set()
    for order in permutations(range(3)):
        weights = projected_weights(G, torch.tensor([order] * 3)).tolist()
        shared.add(tuple(round(w, 6) for w in weights))
    assert found - shared
