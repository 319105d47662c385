"""fgsm, pgd and mi_fgsm: the specification's numbers, and what must hold of any attack."""

import pytest
import torch

from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.losses import input_gradient, objective
from methods.adversarial.attacks.mi_fgsm import accumulate, mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.threat import Threat, length
from tests.support.worked_attacks import (
    X,
    Y,
    convolutional,
    linear,
    of,
    pictures,
    value,
)

ATTACK = objective(linear, {"label": Y})
LINF = Threat("linf", 0.1)
TO_ZERO = objective(linear, {"label": torch.tensor([0])}, sign=-1.0)


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-7, rtol=0)


def test_fgsm_of_the_worked_example():
    there = fgsm(ATTACK, X, LINF)
    close(there, 0.1, 0.6, 0.6, 0.8)
    assert value(there) == pytest.approx(0.22300551, abs=1e-7)
    targeted = fgsm(TO_ZERO, X, LINF)
    close(targeted, 0.3, 0.6, 0.6, 0.8)
    assert value(targeted, 0) == pytest.approx(2.31906553, abs=1e-6)


def test_pgd_of_the_worked_example():
    first = pgd(ATTACK, X, LINF, 1, 0.05)
    close(first, 0.15, 0.65, 0.55, 0.85)
    assert value(first) == pytest.approx(0.17616764, abs=1e-7)
    for steps in (2, 3):
        close(pgd(ATTACK, X, LINF, steps, 0.05), 0.1, 0.6, 0.6, 0.8)


def test_pgd_l2_of_the_worked_example():
    threat = Threat("l2", 0.15)
    close(pgd(ATTACK, X, threat, 1, 0.1), 0.19260828, 0.65078159, 0.53990782, 0.82299171)
    there = pgd(ATTACK, X, threat, 2, 0.1)
    close(there, 0.19002030, 0.62507411, 0.55993401, 0.78513298)
    assert float(length(there - X)) == pytest.approx(0.15, abs=1e-6)
    assert value(there) == pytest.approx(0.20970091, abs=1e-7)


def test_least_likely_class_of_the_worked_example():
    assert value(X, 0) == pytest.approx(2.98851096, abs=1e-6)
    first = pgd(TO_ZERO, X, LINF, 1, 0.05)
    close(first, 0.25, 0.65, 0.55, 0.85)
    assert value(first, 0) == pytest.approx(2.64858535, abs=1e-6)
    close(pgd(TO_ZERO, X, LINF, 2, 0.05), 0.3, 0.6, 0.6, 0.8)


def test_the_momentum_buffer_of_the_worked_example():
    first = accumulate(torch.zeros_like(X), input_gradient(ATTACK, X), 1.0)
    close(first, -0.04259713, -0.28363668, 0.22998150, -0.44378469)
    moved = LINF.project(X, X + 0.05 * LINF.direction(first))
    second = accumulate(first, input_gradient(ATTACK, moved), 1.0)
    close(second, -0.08287644, -0.56997749, 0.46040449, -0.88674158)
    assert torch.equal(
        mi_fgsm(ATTACK, X, LINF, 2, 1.0), LINF.project(X, moved + 0.05 * LINF.direction(second))
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_begins_inside_the_ball_and_the_box(norm):
    """Also where the start is not: that of TRADES is normal."""
    threat = Threat(norm, 0.1)
    seen = []

    def watched(x):
        seen.append(x.detach())
        return ATTACK(x)

    start = torch.tensor([[-9.0, 9.0, 0.5, 0.0]])
    pgd(watched, X, threat, 1, 0.0, start)
    torch.testing.assert_close(seen[0], threat.project(X, X + start))
    assert float((seen[0] - X).norm()) <= 0.2 + 1e-6 and float(seen[0].min()) >= 0


@pytest.mark.parametrize("margin", [30.0, 40.0, 60.0])
def test_a_confident_sample_is_moved_by_the_whole_length(margin):
    """The gradient of cross-entropy is about e^-margin long: 1e-26 at 60."""
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    bias = torch.tensor([margin, 0.0])
    x = torch.tensor([[0.5, 0.5]])
    confident = of(lambda x: x @ weight.T + bias, torch.tensor([0]))
    threat = Threat("l2", 0.1)
    for there in (fgsm(confident, x, threat), pgd(confident, x, threat, 1, 0.1)):
        torch.testing.assert_close(there - x, torch.tensor([[0.06, 0.08]]))
    momentum = mi_fgsm(confident, x, threat, 1)
    torch.testing.assert_close(momentum - x, torch.tensor([[0.06, 0.08]]))


def test_a_zero_gradient_does_not_poison_the_buffer():
    buffer = torch.tensor([[1.0, -2.0]])
    for gradient in (torch.zeros(1, 2), torch.full((1, 2), torch.nan)):
        assert accumulate(buffer, gradient, 0.5).tolist() == [[0.5, -1.0]]


# -- what must hold --------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radius_zero_changes_nothing_and_any_other_is_kept_to(norm):
    model, (x, y) = convolutional(), pictures()
    start = Threat(norm, 0.2).random_start(
        x, SampleRandomness(0, torch.arange(len(x))).draw("start")
    )
    for eps in (0.0, 0.2):
        threat = Threat(norm, eps)
        for there in (
            fgsm(of(model, y), x, threat),
            pgd(of(model, y), x, threat, 4, 0.1, start),
            mi_fgsm(of(model, y), x, threat, 4),
        ):
            delta = there - x
            size = delta.flatten(1).abs().amax(1) if norm == "linf" else length(delta)
            assert float(size.max()) <= eps + 1e-6
            assert (float(size.max()) > 0) == (eps > 0)
            assert float(there.min()) >= 0 and float(there.max()) <= 1 and not there.requires_grad


def test_one_large_step_is_fgsm():
    model, (x, y) = convolutional(), pictures()
    for threat in (Threat("linf", 0.1), Threat("l2", 0.5)):
        torch.testing.assert_close(
            pgd(of(model, y), x, threat, 1, 2.0), fgsm(of(model, y), x, threat)
        )


def test_a_sample_is_attacked_alike_alone_and_in_a_batch():
    model, (x, y) = convolutional(), pictures()
    threat = Threat("l2", 0.5)
    whole = pgd(of(model, y), x, threat, 5, 0.2)
    alone = torch.cat(
        [pgd(of(model, y[i : i + 1]), x[i : i + 1], threat, 5, 0.2) for i in range(len(x))]
    )
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)


def test_on_a_linear_model_the_loss_never_falls():
    values = [value(pgd(ATTACK, X, Threat("linf", 0.3), steps, 0.04)) for steps in range(9)]
    assert values == sorted(values) and values[-1] > values[0]


def test_attacks_run_where_gradients_are_off():
    with torch.no_grad():
        close(pgd(ATTACK, X, LINF, 2, 0.05), 0.1, 0.6, 0.6, 0.8)
