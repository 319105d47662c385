"""Weights of task losses and the updates they make, against torchjd."""

from typing import Any

import pytest
import torch

from methods.multi_task.dwa import average_weights
from methods.multi_task.mgda import min_norm
from methods.multi_task.nash_mtl import bargain
from methods.multi_task.pcgrad import projected_weights
from methods.multi_task.static import Static
from methods.multi_task.uncertainty import uncertain
from tests.support.comparison import installed, same
from tests.support.harness import train
from tests.support.worked_multi_task import TASKS, J

LOSSES = torch.tensor([2.0, 0.5, 1.3], dtype=torch.float64)


def jacobian(seed: int, tasks: int, dimensions: int) -> torch.Tensor:
    """Gradients of tasks, a row each."""
    return torch.randn(
        tasks, dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


# -- sums of losses: their value, and their gradient by every loss ---------------------------------
def theirs(name: str, *arguments: Any, **settings: Any) -> Any:
    return getattr(installed("torchjd.scalarization"), name)(*arguments, **settings)


@pytest.mark.parametrize(
    ("given", "how", "peer"),
    [
        (None, "none", lambda: theirs("Sum")),
        (None, "one", lambda: theirs("Mean")),
        ([1.0, 2.0, 3.0], "none", lambda: theirs("Constant", torch.tensor([1.0, 2.0, 3.0]))),
        ([1.0, 2.0, 3.0], "tasks", lambda: theirs("Constant", torch.tensor([0.5, 1.0, 1.5]))),
    ],
    ids=["sum", "mean", "constant", "constant of sum T"],
)
def test_static_weights(given, how, peer):
    """In the engine: its logged weights are the peer's gradients, its loss the peer's value."""
    row = train({"static": Static(given, how)}, tasks=TASKS, steps=1).history[0]
    losses = torch.tensor([row[f"train/supervised/{task}"] for task in TASKS], requires_grad=True)
    value = peer()(losses)
    assert row["train/loss"] == pytest.approx(float(value.detach()), rel=1e-6)
    (weights,) = torch.autograd.grad(value, losses)
    assert [row[f"train/weight/{task}"] for task in TASKS] == pytest.approx(
        weights.tolist(), rel=1e-6
    )


@pytest.mark.parametrize("start", [0.0, -0.5, 0.7])
def test_uncertainty(start):
    """By losses and by the log variances s. Theirs is the form of regression for every task."""
    peer = theirs("UW", 3).double()
    (name,) = dict(peer.named_parameters())

    def of_theirs(losses: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(peer, {name: s}, (losses,))

    s = start + torch.tensor([0.0, 0.1, -0.2], dtype=torch.float64)
    same(lambda losses, s: uncertain(losses, s, "regression")[0].sum(), of_theirs, LOSSES, s)


def test_dwa():
    """Weights of the third epoch and of the fourth, from the losses of the two before."""
    peer = theirs("DWA", temperature=2.0)
    history = torch.tensor(
        [[2.0, 1.0, 0.4], [1.5, 0.9, 0.5], [1.0, 0.85, 0.3]], dtype=torch.float64
    )
    for losses in history[:2]:
        peer(losses)
        peer.step()
    for before, last in ((0, 1), (1, 2)):
        weights = average_weights(history[last], history[before], 2.0)
        same(lambda x, w=weights: (w * x).sum(), peer, history[2], tolerance=1e-6)
        peer.step()


# -- weights from gradients: w, and the update Σ w_t g_t -------------------------------------------
def weighting(name: str, **settings: Any) -> Any:
    return getattr(installed("torchjd.aggregation"), name)(**settings)


@pytest.mark.parametrize("seed", range(5))
def test_mgda(seed):
    """Theirs iterates; ours is exact, which its own tests show."""
    j = jacobian(seed, 3, 12)
    settings = {"epsilon": 1e-12, "max_iters": 10000}
    w = min_norm(j @ j.T)
    torch.testing.assert_close(
        w, weighting("MGDAWeighting", **settings)(j @ j.T), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(w @ j, weighting("MGDA", **settings)(j), atol=5e-3, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_of_two_tasks(seed):
    """With two tasks the order, which both draw, is no matter."""
    j = jacobian(seed, 2, 3)
    w = projected_weights(j @ j.T, torch.tensor([[0, 1], [1, 0]]))
    torch.testing.assert_close(w, weighting("PCGradWeighting")(j @ j.T))
    torch.testing.assert_close(w @ j, weighting("PCGrad")(j))


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@pytest.mark.parametrize(
    "gradients", [J, *(jacobian(seed, 3, 6) for seed in range(3, 6))], ids=["worked", *"345"]
)
def test_nash_mtl(gradients):
    """The direction: theirs divides the matrix by its norm first. Where its solver stops early
    (seed 2), w ∘ Gw is (-.05, 1.35, 1.70) instead of ones, and there is nothing to compare."""
    for solver in ("cvxpy", "ecos"):
        installed(solver)
    ours = bargain(gradients @ gradients.T) @ gradients
    theirs = weighting("NashMTL", n_tasks=3, max_norm=0, optim_niter=200)(
        gradients.float()
    ).double()
    torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm(), atol=1e-5, rtol=0)
