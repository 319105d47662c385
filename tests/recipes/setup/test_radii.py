"""A radius in grey levels is refused on pictures in [0, 1]."""

import pytest

from recipes.setup.radii import radius_errors
from tests.support.command import roux

WRONG = {
    ("adversarial=pgd_at", "methods.pgd_at.eps=8"): "methods.pgd_at.eps",
    ("adversarial=pgd_at", "methods.pgd_at.step_size=2"): "methods.pgd_at.step_size",
    ("adversarial=trades", "methods.trades.eps=8"): "methods.trades.eps",
    ("adversarial=free_at", "methods.free_at.eps=8"): "methods.free_at.eps",
    ("evaluate.attack=pgd", "evaluate.attack.eps=8"): "evaluate.attack.eps",
    ("evaluate.attack=square", "evaluate.attack.eps=8"): "evaluate.attack.eps",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_one_line_with_the_fraction(overrides):
    key, value = overrides[1].split("=")
    assert key == WRONG[overrides]
    outcome = roux(*overrides, "dry_run=true")
    assert outcome.code == 2 and outcome.lines == [
        f"error: {key}: got {value}, expected at most 1, since pixels are in [0, 1]; "
        f"write {key}={value}/255"
    ]


@pytest.mark.parametrize("eps", [0, 0.03, "8/255", 1, "255/255", None])
def test_what_fits_into_the_range(eps):
    assert list(radius_errors("k", {"_target_": "a.B", "norm": "linf", "eps": eps})) == []


def test_an_l2_radius_may_be_longer():
    assert list(radius_errors("k", {"_target_": "a.B", "norm": "l2", "eps": 3})) == []
