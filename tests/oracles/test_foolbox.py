"""Attacks, point by point, against foolbox, on the model that is held against torchattacks too."""

from typing import Any

import pytest
import torch

from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.threat import Threat, length
from tests.support.comparison import installed
from tests.support.worked_attacks import convolutional, of, pictures

MODEL = convolutional()
X, Y = pictures()
CE = of(MODEL, Y)
RADII = {"Linf": Threat("linf", 0.1), "L2": Threat("l2", 1.0)}
BOTH = pytest.mark.parametrize("norm", RADII)


def theirs(
    name: str, eps: float, wanted: torch.Tensor | None = None, **settings: Any
) -> torch.Tensor:
    """wanted: the classes of a targeted attack."""
    foolbox = installed("foolbox")
    criteria = foolbox.criteria
    criterion = (
        criteria.Misclassification(Y)
        if wanted is None
        else criteria.TargetedMisclassification(wanted)
    )
    attack = getattr(foolbox.attacks, name)(**settings)
    return attack(foolbox.PyTorchModel(MODEL, bounds=(0, 1)), X, criterion, epsilons=eps)[1]


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((ours - X).abs().max()) > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@BOTH
def test_fgsm(norm):
    threat = RADII[norm]
    close(fgsm(CE, X, threat), theirs(f"{norm}FastGradientAttack", threat.eps))


@BOTH
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", ["PGD", "BasicIterativeAttack"])
def test_pgd_without_a_start(norm, name, steps):
    """The l2 steps reach both the ball and the box, in that order."""
    threat = RADII[norm]
    settings = {"abs_stepsize": 0.3 * threat.eps, "steps": steps, "random_start": False}
    expected = theirs(norm + name, threat.eps, **settings)
    close(pgd(CE, X, threat, steps, 0.3 * threat.eps), expected)
    if steps > 1:
        assert bool((expected == 0).any()) and bool((expected == 1).any())


def test_pgd_from_their_start():
    """Uniform in the ball."""
    torch.manual_seed(5)
    expected = theirs("LinfPGD", 0.1, abs_stepsize=0.03, steps=5, random_start=True)
    torch.manual_seed(5)
    start = -0.1 + 0.2 * torch.rand_like(X)
    close(pgd(CE, X, RADII["Linf"], 5, 0.03, start), expected)


@BOTH
def test_towards_a_class(norm):
    wanted, threat = (Y + 1) % 5, RADII[norm]
    settings = {"abs_stepsize": 0.2 * threat.eps, "steps": 6, "random_start": False}
    expected = theirs(f"{norm}PGD", threat.eps, wanted, **settings)
    close(pgd(of(MODEL, wanted, sign=-1.0), X, threat, 6, 0.2 * threat.eps), expected)


def test_momentum():
    """Theirs sums signs, the paper gradients of norm one in l1: equal without momentum, and with it
    not."""
    settings = {"abs_stepsize": 0.02, "steps": 8}
    name, threat = "LinfMomentumIterativeFastGradientMethod", RADII["Linf"]
    close(mi_fgsm(CE, X, threat, 8, 0.0, 0.02), theirs(name, 0.1, momentum=0.0, **settings))
    assert not torch.allclose(
        mi_fgsm(CE, X, threat, 8, 1.0, 0.02), theirs(name, 0.1, momentum=1.0, **settings)
    )


def test_radii_are_kept():
    found = theirs("L2PGD", 1.0, abs_stepsize=0.3, steps=7, random_start=False) - X
    assert float(length(found).max()) <= 1 + 1e-6
