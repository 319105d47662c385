"""Filters of pictures against scipy.ndimage, whose border `reflect` repeats the edge; conjugate
gradients against scipy.sparse."""

import numpy as np
import pytest
import torch
from scipy import ndimage, sparse

from methods.adversarial.smoothing import gaussian, mean, median
from methods.semi_supervised.propagation import neighbor_graph, seeds, spread

WINDOWS, SIDES = (
    pytest.mark.parametrize("window", [1, 2, 3, 4, 5]),
    pytest.mark.parametrize("side", [3, 7]),
)


def pictures(side: int, seed: int = 0) -> torch.Tensor:
    """A window or kernel larger than the picture mirrors it more than once."""
    return torch.rand(2, 3, side, side + 1, generator=torch.Generator().manual_seed(seed))


def theirs(name: str, x: torch.Tensor, setting: float) -> torch.Tensor:
    """Channel by channel."""
    filtered = getattr(ndimage, name)
    return torch.from_numpy(
        np.stack([[filtered(c, setting, mode="reflect") for c in image] for image in x.numpy()])
    )


@WINDOWS
@SIDES
def test_median(window, side):
    x = pictures(side)
    assert torch.equal(median(x, window), theirs("median_filter", x, window))


@WINDOWS
@SIDES
@pytest.mark.parametrize(
    ("ours", "name"), [(mean, "uniform_filter"), (gaussian, "gaussian_filter")]
)
def test_linear_filters(ours, name, window, side):
    """Values; and the gradient of ⟨u, f(x)⟩ is the adjoint of their filter: ⟨∇, v⟩ = ⟨u, f(v)⟩ for
    any v."""
    setting = window if name == "uniform_filter" else window / 2
    x, u, v = (pictures(side, seed) for seed in range(3))
    x.requires_grad_()
    found = ours(x, setting)
    torch.testing.assert_close(found.detach(), theirs(name, x.detach(), setting), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad((u * found).sum(), x)
    torch.testing.assert_close(
        (gradient * v).sum(), (u * theirs(name, v, setting)).sum(), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize("steps", [1, 5, 20, 500])
def test_conjugate_gradients_by_class(steps):
    """Before they have converged, too: label propagation stops after 20 iterations."""
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    graph = neighbor_graph(x, 8, 3.0)
    labels = torch.where(torch.arange(120) < 12, torch.arange(120) % 4, -1)
    y = seeds(labels, 4)
    system = sparse.eye(120) - 0.99 * sparse.csr_matrix(graph.to_dense().numpy())
    z = spread(graph, y, 0.99, steps, 1e-6)
    for column in range(4):
        expected, _ = sparse.linalg.cg(system, y[:, column].numpy(), rtol=1e-6, maxiter=steps)
        np.testing.assert_allclose(z[:, column], expected, rtol=1e-7, atol=1e-9)
