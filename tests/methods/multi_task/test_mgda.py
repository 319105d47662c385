import pytest
import torch

from methods.multi_task.mgda import MGDA, by_active_set, by_supports, min_norm, rescaled
from tests.support.harness import train
from tests.support.worked_multi_task import TASKS, G, check_permutation, random_gram


def test_worked_example():
    w = min_norm(G)
    torch.testing.assert_close(w, torch.tensor([5, 11, 11]).double() / 27, atol=1e-9, rtol=0)
    assert float(w @ G @ w) == pytest.approx(28 / 27, abs=1e-9)
    torch.testing.assert_close(
        min_norm(G[:2, :2]), torch.tensor([6, 11]).double() / 17, atol=1e-9, rtol=0
    )


def test_two_tasks_have_a_closed_form():
    for seed in range(20):
        g = random_gram(seed, 2, 3)
        first = ((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1])).clamp(0, 1)
        torch.testing.assert_close(min_norm(g), torch.stack([first, 1 - first]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8, 11])
def test_conditions_of_the_minimum(tasks):
    """(Gw)_t ≥ wᵀGw for all t, with equality on the support."""
    for seed in range(30):
        scale = torch.exp(
            2
            * torch.randn(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        )
        g = random_gram(seed, tasks) * scale[:, None] * scale[None, :]
        w = min_norm(g)
        pull, value = g @ w, w @ g @ w
        tolerance = 1e-8 * float(g.diagonal().mean())
        assert float(w.sum()) == pytest.approx(1) and float(w.min()) >= 0
        assert float((value - pull).max()) <= tolerance
        assert float((pull - value)[w > 1e-9].abs().max()) <= tolerance


def test_enumeration_and_active_set_agree():
    for seed in range(10):
        g = random_gram(seed, 6)
        there = torch.ones(6, dtype=torch.bool)
        alone = torch.from_numpy(by_active_set(g.numpy(), there.numpy()))
        torch.testing.assert_close(by_supports(g, there), alone, atol=1e-7, rtol=0)
        torch.testing.assert_close(min_norm(g), alone, atol=1e-7, rtol=0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_gradients_that_are_no_numbers_give_no_weights(wrong):
    g, there = torch.where(torch.eye(3) > 0, wrong, G), torch.ones(3, dtype=torch.bool)
    assert min_norm(g).isnan().all() and by_supports(g, there).isnan().all()


def test_properties():
    check_permutation(min_norm, 1e-7)
    torch.testing.assert_close(min_norm(100 * G), min_norm(G), atol=1e-9, rtol=0)
    lengths = torch.tensor([1.0, 4.0, 2.0]).double()
    expected = (1 / lengths) / (1 / lengths).sum()
    torch.testing.assert_close(min_norm(torch.diag(lengths)), expected, atol=1e-9, rtol=0)
    assert min_norm(torch.ones(1, 1).double()).tolist() == [1]
    torch.testing.assert_close(
        min_norm(torch.ones(3, 3).double()), torch.full((3,), 1 / 3).double(), atol=1e-3, rtol=0
    )
    opposed = torch.tensor([[1.0, -2.0], [-2.0, 4.0]]).double()
    torch.testing.assert_close(
        min_norm(opposed), torch.tensor([2, 1]).double() / 3, atol=1e-6, rtol=0
    )


def test_a_task_without_gradient_does_not_stop_the_others():
    g = torch.block_diag(G, torch.zeros(1, 1).double())
    torch.testing.assert_close(
        min_norm(g), torch.cat([min_norm(G), torch.zeros(1).double()]), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(
    ("how", "scale"), [("l2", [10**0.5, 5**0.5, 5**0.5]), ("loss", [2, 3, 4]), ("none", [1, 1, 1])]
)
def test_normalised_gradients(how, scale):
    j = (
        torch.tensor([[3.0, 1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, -1.0, 2.0]]).double()
        / torch.tensor(scale)[:, None]
    )
    torch.testing.assert_close(
        rescaled(G, torch.tensor([2.0, 3.0, 4.0]).double(), how), j @ j.T, rtol=1e-6, atol=0
    )
    plus = rescaled(G, torch.tensor([2.0, 3.0, 4.0]).double(), "loss+")
    torch.testing.assert_close(plus.diagonal(), 1 / torch.tensor([4.0, 9, 16]).double())


def test_no_task_is_hurt_in_the_engine():
    """Sum of weights one, or the number of tasks; the norm of the update falls below that of every
    gradient."""
    weights = train({"mgda": MGDA(normalize_sum="tasks")}, tasks=TASKS, steps=2).history
    assert all(
        sum(row[f"train/weight/{task}"] for task in TASKS) == pytest.approx(3, abs=1e-5)
        for row in weights
    )
