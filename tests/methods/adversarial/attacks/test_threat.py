import math

import pytest
import torch
from pydantic import TypeAdapter

from foundation.randomness import Randomness, SampleRandomness
from methods.adversarial.attacks.threat import Radius, Threat, length, radius
from recipes.config.signatures import describe, fits
from recipes.step import Embedded


@pytest.mark.parametrize(
    ("said", "means"), [("8/255", 8 / 255), (0.031, 0.031), ("0.5/255", 0.5 / 255), (1, 1.0)]
)
def test_a_radius_is_a_number_or_a_fraction(said, means):
    assert radius(said) == means
    assert fits(said, Radius)


@pytest.mark.parametrize("wrong", ["8/0", "eight", -0.1, "1e-3/2", "-1/2", ""])
def test_other_radii_are_refused_in_words(wrong):
    assert not fits(wrong, Radius)
    assert describe(Radius) == "a number at least 0 or a fraction such as 8/255"
    TypeAdapter(Radius)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_idempotent_inside_the_ball_and_the_box(norm):
    source = torch.Generator().manual_seed(0)
    x, moved = torch.rand(50, 3, 4, generator=source), 3 * torch.randn(50, 3, 4, generator=source)
    threat = Threat(norm, 0.3)
    there = threat.project(x, moved)
    delta = there - x
    size = delta.flatten(1).abs().amax(1) if norm == "linf" else length(delta)
    assert float(size.max()) <= 0.3 + 1e-6
    assert float(there.min()) >= 0 and float(there.max()) <= 1
    torch.testing.assert_close(threat.project(x, there), there, atol=1e-7, rtol=0)
    small = x + 1e-3 * (0.5 - x)
    torch.testing.assert_close(threat.project(x, small), small, atol=1e-7, rtol=0)
    torch.testing.assert_close(Threat(norm, 0.0).project(x, moved), x)


def test_l2_projects_then_clips():
    """The other order ends elsewhere: (.95, .5) + (.3, .4) at radius .25 goes to (1.1, .7), then
    (1, .7)."""
    there = Threat("l2", 0.25).project(torch.tensor([[0.95, 0.5]]), torch.tensor([[1.25, 0.9]]))
    torch.testing.assert_close(there, torch.tensor([[1.0, 0.7]]))


def test_directions_have_length_one_and_vanish_with_the_gradient():
    g = torch.tensor([[3.0, 0.0, -4.0], [0.0, 0.0, 0.0], [math.nan, math.inf, -2.0]])
    assert Threat("linf", 1).direction(g).tolist() == [[1, 0, -1], [0, 0, 0], [0, 0, -1]]
    torch.testing.assert_close(
        Threat("l2", 1).direction(g),
        torch.tensor([[0.6, 0.0, -0.8], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0]]),
    )


def test_padding_is_never_changed_and_words_have_no_box():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    embedded = Embedded(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), mask)
    threat = Threat.around(embedded, "l2", 5.0)
    assert threat.box is None
    start = threat.random_start(embedded.x, Randomness(0, 0).draw("start", 2))
    for delta in (
        start,
        threat.direction(torch.ones(2, 3, 4)),
        threat.project(embedded.x, embedded.x + 1) - embedded.x,
    ):
        assert (delta[~mask] == 0).all() and (delta[mask] != 0).all()
    assert Threat.around(Embedded(torch.zeros(1, 1, 2, 2)), "linf", 0.1).box == (0.0, 1.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_and_are_keyed(norm):
    x = torch.full((400, 20), 0.5)
    threat = Threat(norm, 0.2)
    start = threat.random_start(x, SampleRandomness(0, torch.arange(400)).draw("start"))
    assert torch.equal(
        start, threat.random_start(x, SampleRandomness(0, torch.arange(400)).draw("start"))
    )
    if norm == "linf":
        assert 0.199 < float(start.abs().max()) <= 0.2
        assert float(start.mean()) == pytest.approx(0, abs=5e-3)
    else:
        assert 0.199 < float(length(start).max()) <= 0.2 + 1e-6
        assert float(length(start).mean()) == pytest.approx(0.1, abs=5e-3)
