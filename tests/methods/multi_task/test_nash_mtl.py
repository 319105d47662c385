import pytest
import torch

from methods.multi_task.nash_mtl import NashMTL, bargain
from methods.multi_task.weighting import without_absent
from tests.support.harness import train
from tests.support.worked_multi_task import TASKS, G, check_permutation, random_gram


def test_worked_example():
    torch.testing.assert_close(
        bargain(G), torch.tensor([0.387298, 0.645497, 0.645497]).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        bargain(G[:2, :2]), torch.tensor([0.341279, 0.482642]).double(), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("tasks", [2, 3, 5, 11])
def test_residual_over_badly_scaled_problems(tasks):
    for seed in range(60):
        scale = torch.exp(
            2
            * torch.randn(tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        )
        g = random_gram(seed, tasks, 12) * scale[:, None] * scale[None, :]
        a = bargain(g)
        assert float(a.min()) > 0
        assert float((a * (g @ a) - 1).abs().max()) < 1e-10


def test_properties():
    check_permutation(bargain)
    torch.testing.assert_close(bargain(9 * G), bargain(G) / 3)
    lengths = torch.tensor([1.0, 4.0, 25.0]).double()
    torch.testing.assert_close(bargain(torch.diag(lengths)), lengths.rsqrt())
    scale = torch.tensor([0.1, 1.0, 7.0]).double()
    # the update Σ a g is the same for any scale of a task's loss
    torch.testing.assert_close(bargain(G * scale[:, None] * scale[None, :]) * scale, bargain(G))
    assert ((G @ bargain(G)) > 0).all(), "no task is hurt"
    assert bargain(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()).isfinite().all()


def test_an_absent_task_leaves_the_others_alone():
    there = torch.tensor([True, False, True])
    found = bargain(without_absent(G, there))[there]
    torch.testing.assert_close(found, bargain(G[there][:, there]))


def test_the_longest_update():
    class Lengths(NashMTL):
        found: list[float]

        def solve(self, gram, found, step):
            w = super().solve(gram, found, step)
            self.found = [*getattr(self, "found", []), float((w @ gram @ w).sqrt())]
            return w

    for max_norm, expected in ((0.0, 3**0.5), (1.0, 1.0), (5.0, 3**0.5)):
        method = Lengths(max_norm=max_norm)
        train({"nash_mtl": method}, tasks=TASKS, steps=2)
        assert method.found == pytest.approx([expected] * 2, rel=1e-5)
