"""The random resize of DIM against `F.interpolate` and `F.pad`."""

import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.dim import Diversity, resampling


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("height", "width", "canvas"), [(9, 7, 11), (8, 8, 8), (5, 12, 5)])
def test_a_matrix_resizes_and_pads(mode, height, width, canvas):
    x = torch.rand(3, 2, height, width, generator=torch.Generator().manual_seed(0))
    side, corner = torch.tensor([3, 4, 5]), torch.tensor([0, 1, 0])
    lines = resampling(side, corner, height, canvas, mode)
    found = lines.unsqueeze(1) @ x
    for i, (s, c) in enumerate(zip(side.tolist(), corner.tolist(), strict=True)):
        extra = {} if mode == "nearest" else {"align_corners": False}
        resized = F.interpolate(x[i : i + 1], (s, width), mode=mode, **extra)
        expected = F.pad(resized, (0, 0, c, canvas - s - c))
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-6, rtol=0)


def test_sides_and_places_cover_the_range():
    """Sides in [0.5 · 8, 8), corners below the room that is left, as in the authors' code."""
    rows = SampleRandomness(0, torch.arange(4000)).draw("a")
    white = torch.ones(4000, 1, 8, 8)
    lines = Diversity(1.0, 0.5).resized(white, rows)[:, 0] > 0.5
    tall, wide = lines.any(2).sum(1), lines.any(1).sum(1)
    assert torch.equal(tall, wide)
    assert tall.unique().tolist() == [4, 5, 6, 7]
    top = lines.any(2).float().argmax(1)
    left = lines.any(1).float().argmax(1)
    for side in (4, 5, 6, 7):
        chosen = tall == side
        assert top[chosen].unique().tolist() == list(range(8 - side))
        assert left[chosen].unique().tolist() == list(range(8 - side))


def test_a_share_of_the_samples_changes_and_a_larger_canvas_takes_its_own_forward():
    x = torch.rand(500, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    index = torch.arange(500)
    # of the enlarged a third keeps its side and is only moved, which a sum does not see
    for resize, share, shapes in ((0.5, 0.3, [(6, 6)]), (1.5, 0.2, [(9, 9), (6, 6)])):
        seen = []

        def value(pixels, seen=seen):
            seen.append(tuple(pixels.shape[2:]))
            return pixels.flatten(1).square().sum(1)

        rows = SampleRandomness(0, index).draw("a")
        found = Diversity(0.3, resize).objective(value, rows)(x)
        assert seen == shapes
        changed = (found - value(x)).abs() > 1e-6
        assert abs(float(changed.float().mean()) - share) < 0.05
    plain = x.sum((1, 2, 3))
    never = Diversity(0.0, 0.5).objective(lambda p: p.sum((1, 2, 3)), rows)
    assert torch.equal(never(x), plain)


def test_the_gradient_flows_through_the_resize():
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    rows = SampleRandomness(0, torch.arange(4)).draw

    def value(pixels):
        return Diversity(1.0, 0.6).objective(lambda p: p.square().sum((1, 2, 3)), rows("a"))(pixels)

    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf).sum(), leaf)
    step = torch.zeros_like(x)
    step[:, 0, 2, 3] = 1e-2
    slope = (value(x + step) - value(x - step)) / 2e-2
    torch.testing.assert_close(slope, gradient[:, 0, 2, 3], atol=1e-4, rtol=1e-3)
