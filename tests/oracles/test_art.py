"""Attacks and the median filter against the Adversarial Robustness Toolbox, point by point; arrays
in and out."""

from typing import Any

import numpy as np
import pytest
import torch

from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.smoothing import median
from methods.adversarial.squeezers import bit_depth
from tests.support.comparison import installed
from tests.support.worked_attacks import convolutional, of, pictures

MODEL = convolutional()
X, Y = pictures()
INSIDE = 0.5 + 0.4 * (X - 0.5)  # no step of a small l2 attack reaches the box
LINF = Threat("linf", 0.1)


def theirs(name: str, x: torch.Tensor, y: torch.Tensor = Y, **settings: Any) -> torch.Tensor:
    package = "adversarial-robustness-toolbox"
    loss = torch.nn.CrossEntropyLoss(reduction="sum")
    estimator = installed("art.estimators.classification", package).PyTorchClassifier(
        MODEL, loss, tuple(x.shape[1:]), nb_classes=5, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = getattr(installed("art.attacks.evasion", package), name)(estimator, **settings)
    return torch.from_numpy(attack.generate(x.numpy(), np.eye(5, dtype=np.float32)[y.numpy()]))


def close(ours: torch.Tensor, expected: torch.Tensor, x: torch.Tensor = X) -> None:
    assert float((ours - x).abs().max()) > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.0)])
def test_fgsm(norm, eps):
    expected = theirs("FastGradientMethod", INSIDE, norm=np.inf if norm == "linf" else 2, eps=eps)
    close(fgsm(of(MODEL, Y), INSIDE, Threat(norm, eps)), expected, INSIDE)


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd(steps):
    settings = {"norm": np.inf, "eps": 0.1, "eps_step": 0.03, "max_iter": steps, "verbose": False}
    close(
        pgd(of(MODEL, Y), X, LINF, steps, 0.03),
        theirs("ProjectedGradientDescentPyTorch", X, **settings),
    )


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd_l2(steps):
    """Theirs clips to the box and then to the ball, ours the other way round: equal where the box
    is not reached, and elsewhere not."""
    settings = {"norm": 2, "eps": 1.0, "eps_step": 0.3, "max_iter": steps, "verbose": False}
    for x, equal in ((INSIDE, True), (X, False)):
        ours = pgd(of(MODEL, Y), x, Threat("l2", 1.0), steps, 0.3)
        expected = theirs("ProjectedGradientDescentPyTorch", x, **settings)
        if equal:
            assert bool(((expected > 0) & (expected < 1)).all())
            close(ours, expected, x)
        elif steps > 3:
            assert 1e-4 < float((ours - expected).abs().max()) < 0.1


def test_towards_a_class():
    wanted = (Y + 2) % 5
    settings = {
        "norm": np.inf,
        "eps": 0.1,
        "eps_step": 0.02,
        "max_iter": 6,
        "targeted": True,
        "verbose": False,
    }
    expected = theirs("ProjectedGradientDescentPyTorch", X, wanted, **settings)
    close(pgd(of(MODEL, wanted, sign=-1.0), X, LINF, 6, 0.02), expected)


@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_mi_fgsm(momentum):
    """Gradients divided by their l1 norm, as in the paper."""
    settings = {
        "norm": np.inf,
        "eps": 0.1,
        "eps_step": 0.02,
        "max_iter": 8,
        "decay": momentum,
        "verbose": False,
    }
    expected = theirs("ProjectedGradientDescentPyTorch", X, **settings)
    close(mi_fgsm(of(MODEL, Y), X, LINF, 8, momentum, 0.02), expected)


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_median_filter(window):
    """Its form in arrays; that in torch mirrors the border otherwise and takes the lower median."""
    module = installed("art.defences.preprocessor", "adversarial-robustness-toolbox")
    expected, _ = module.SpatialSmoothing(window_size=window, channels_first=True)(X.numpy())
    assert torch.equal(median(X, window), torch.from_numpy(expected))


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_feature_squeezing(bits):
    module = installed("art.defences.preprocessor", "adversarial-robustness-toolbox")
    theirs = module.FeatureSqueezing((0.0, 1.0), bits)
    expected, _ = theirs(X.numpy())
    ours = bit_depth(X, bits)
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), atol=1e-7, rtol=0)
