"""Two gloo ranks with half of the rows each against one process with all of them."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from foundation.distributed import gather_with_gradient, world_size
from tests.support.processes import on_two_ranks

ROWS, WIDTH = 8, 5


def data() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return (
        torch.randn(ROWS, 4, generator=source, dtype=torch.float64),
        torch.randn(4, WIDTH, generator=source, dtype=torch.float64),
    )


def relating(x: torch.Tensor) -> torch.Tensor:
    """A loss that is no sum over samples: a log-sum-exp over all pairs."""
    return torch.logsumexp((x @ x.T).flatten(), 0)


def by_rank(x: torch.Tensor, rank: int) -> torch.Tensor:
    """A share of a loss that the ranks do not repeat: rank r relates its own rows to all."""
    return (rank + 1) * (x[rank * ROWS // 2 :][: ROWS // 2] @ x.T).square().mean()


def observe(rank: int, world: int) -> dict[str, Any]:
    """Losses, and gradients of shared weights, averaged over ranks as DDP does."""
    assert world_size() == world
    rows, seen = slice(rank * ROWS // world, (rank + 1) * ROWS // world), {}
    x, start = data()
    losses = {"relating": relating}
    losses["by_rank"] = (
        (lambda z: by_rank(z, rank))
        if world > 1
        else (lambda z: (by_rank(z, 0) + by_rank(z, 1)) / 2)
    )
    for name, loss in losses.items():
        weights = start.clone().requires_grad_()
        value = loss(gather_with_gradient(x[rows] @ weights))
        value.backward()
        gradient = weights.grad.clone()
        if world > 1:
            dist.all_reduce(gradient)
        seen[name] = float(value.detach()), gradient / world
    seen["order"] = gather_with_gradient(x[rows].float())
    return seen


def test_rows_come_in_the_order_of_the_global_batch():
    for seen in on_two_ranks(observe):
        assert torch.equal(seen["order"], data()[0].float())


def test_a_loss_that_relates_samples_is_exact():
    value, gradient = observe(0, 1)["relating"]
    for seen in on_two_ranks(observe):
        assert seen["relating"][0] == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(seen["relating"][1], gradient, atol=1e-12, rtol=0)


def test_so_is_one_whose_parts_differ_by_rank():
    value, gradient = observe(0, 1)["by_rank"]
    assert sum(seen["by_rank"][0] for seen in on_two_ranks(observe)) / 2 == pytest.approx(
        value, rel=1e-12
    )
    for seen in on_two_ranks(observe):
        torch.testing.assert_close(seen["by_rank"][1], gradient, atol=1e-12, rtol=0)


def test_one_process_gathers_itself():
    x = data()[0].requires_grad_()
    assert gather_with_gradient(x) is x
