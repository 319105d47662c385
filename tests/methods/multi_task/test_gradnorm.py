import pytest
import torch

from foundation.errors import UserError
from methods.multi_task.gradnorm import GradNorm, balance_gradient, descended
from tests.support.harness import train
from tests.support.worked_multi_task import TASKS

N, PACE, ALL = torch.tensor([4.0, 1.0]), torch.tensor([0.5, 0.9]), torch.tensor([True, True])


def test_worked_example():
    """L = (.5, 1.8), L(0) = (1, 2)."""
    gradient = balance_gradient(torch.ones(2), N, PACE, 1.5, ALL)
    assert gradient.tolist() == [4, -1]
    plain = torch.ones(2) - 0.025 * gradient
    assert plain.tolist() == pytest.approx([0.9, 1.025])
    assert descended(torch.ones(2), gradient, 0.025, 1e-3).tolist() == pytest.approx(
        [0.935065, 1.064935], abs=1e-6
    )


def test_the_gradient_is_that_of_the_papers_loss():
    for seed in range(10):
        source = torch.Generator().manual_seed(seed)
        n, pace, w = (0.1 + torch.rand(4, generator=source, dtype=torch.float64) for _ in range(3))
        w.requires_grad_()
        with torch.no_grad():
            target = (w * n).mean() * (pace / pace.mean()).pow(1.5)
        (expected,) = torch.autograd.grad((w * n - target).abs().sum(), w)
        torch.testing.assert_close(
            balance_gradient(w.detach(), n, pace, 1.5, torch.ones(4).bool()), expected
        )


def test_fixed_points():
    same = torch.full((3,), 2.0)
    still = balance_gradient(
        torch.ones(3), same, torch.tensor([1.0, 2, 3]), 0.0, torch.ones(3).bool()
    )
    assert still.tolist() == [0, 0, 0]
    # weights that give gradient norms in proportion to r^α stay
    r = torch.tensor([0.5, 1.5], dtype=torch.float64)
    n = torch.tensor([4.0, 1.0], dtype=torch.float64)
    w = r / n * 2 / (r / n).sum()
    for _ in range(300):
        w = descended(w, balance_gradient(w, n, r, 1.0, ALL), 1e-3, 1e-3)
    torch.testing.assert_close(w * n / (w * n).mean(), r, atol=2e-2, rtol=0)


def test_an_absent_task_has_no_part():
    with_absent = balance_gradient(
        torch.ones(3),
        torch.tensor([4.0, 1.0, 9.0]),
        torch.tensor([0.5, 0.9, 77.0]),
        1.5,
        torch.tensor([True, True, False]),
    )
    assert with_absent.tolist() == [4, -1, 0]


def test_no_weight_becomes_negative():
    w = descended(torch.tensor([0.1, 1.9]), torch.tensor([50.0, -1.0]), 0.025, 1e-3)
    assert float(w.min()) > 0 and float(w.sum()) == pytest.approx(2)


def test_in_the_engine_weights_start_at_one_and_keep_their_sum():
    result = train({"gradnorm": GradNorm(lr=0.5)}, tasks=TASKS, steps=3)
    rows = [[row[f"train/weight/{task}"] for task in TASKS] for row in result.history]
    assert rows[0] == [1, 1, 1]
    assert rows[1] != rows[0] and all(sum(row) == pytest.approx(3, abs=1e-5) for row in rows)
    for row, weights in zip(result.history, rows, strict=True):
        losses = [row[f"train/supervised/{task}"] for task in TASKS]
        total = sum(w * loss for w, loss in zip(weights, losses, strict=True))
        assert row["train/loss"] == pytest.approx(total, rel=1e-5)


def test_initial_losses():
    first = train({"gradnorm": GradNorm()}, tasks=TASKS, steps=2)
    losses = [first.history[0][f"train/supervised/{task}"] for task in TASKS]
    assert first.recipe.method_modules["gradnorm"].initial.tolist() == pytest.approx(
        losses, rel=1e-5
    )
    known = train({"gradnorm": GradNorm(init_loss="log_c")}, tasks=TASKS, steps=2)
    expected = torch.tensor([3.0, 4.0, 2.0]).log().tolist()
    assert known.recipe.method_modules["gradnorm"].initial.tolist() == pytest.approx(expected)


def test_a_layer_by_name_and_one_that_is_not_there():
    named = train(
        {"gradnorm": GradNorm(lr=0.5, layer="body.0.weight")}, tasks=TASKS, steps=2
    ).history
    assert named[1] != train({"gradnorm": GradNorm(lr=0.5)}, tasks=TASKS, steps=2).history[1]
    with pytest.raises(UserError, match=r"layer='body\.7\.weight'"):
        train({"gradnorm": GradNorm(layer="body.7.weight")}, tasks=TASKS, steps=1)


def test_means_are_over_the_tasks_that_are_present():
    """With a third in the means, or in their denominator, signs would turn."""
    present = torch.tensor([True, True, False])
    norms = torch.tensor([4.0, 2.0, 9.0])
    pace = torch.tensor([0.5, 0.9, 77.0])
    by_norm = balance_gradient(torch.ones(3), norms, pace, 0.0, present)
    assert by_norm.tolist() == [4, -2, 0]
    norms = torch.tensor([3.0, 3.0, 3.0])
    by_pace = balance_gradient(torch.ones(3), norms, pace, 1.0, present)
    assert by_pace.tolist() == [3, -3, 0]
