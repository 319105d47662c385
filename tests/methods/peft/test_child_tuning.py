"""Child-Tuning: the worked AdamW step, the moments of the masked gradient, one mask a step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.randomness import generator
from methods.peft.child_tuning import ChildTuning, mask_gradients
from methods.regularization.sam import SAM
from recipes.contract.composition import Environment, compose


def parameter(values, gradient):
    made = nn.Parameter(torch.tensor(values))
    made.grad = torch.tensor(gradient)
    return made


def masked(keep, seed=0, size=4):
    made = parameter([1.0] * size, [1.0] * size)
    mask_gradients([made], keep, generator(seed))
    return made.grad


@pytest.mark.parametrize(
    ("decay", "expected"),
    [(0.0, (1.0, 2.0, 2.9, 3.9)), (0.01, (0.9990, 1.9980, 2.8970, 3.8960))],
)
def test_worked_step_of_adamw(decay, expected):
    """The specification's mask (0, 0, 1, 1): the first seed that draws it."""
    wanted = [False, False, True, True]
    seed = next(seed for seed in range(1000) if (masked(0.5, seed) > 0).tolist() == wanted)
    made = parameter([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4])
    mask_gradients([made], 0.5, generator(seed))
    torch.testing.assert_close(made.grad, torch.tensor([0.0, 0.0, 0.6, 0.8]))
    torch.optim.AdamW([made], lr=0.1, weight_decay=decay).step()
    torch.testing.assert_close(made.detach(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_expectation_and_variance_of_the_masked_gradient():
    """μ = 0.5, σ² = 0.04, p = 0.3: E[g'] = μ, variance σ² + (1-p)/p (σ² + μ²) = 0.716667."""
    source = torch.Generator().manual_seed(0)
    made = nn.Parameter(torch.zeros(2_000_000))
    made.grad = 0.5 + 0.2 * torch.randn(2_000_000, generator=source)
    mask_gradients([made], 0.3, generator(1))
    assert float(made.grad.mean()) == pytest.approx(0.5, abs=3e-3)
    assert float(made.grad.var()) == pytest.approx(0.716667, abs=5e-3)


def test_half_precision_and_missing_gradients():
    made = nn.Parameter(torch.ones(100, dtype=torch.bfloat16))
    made.grad = torch.ones(100, dtype=torch.bfloat16)
    mask_gradients([nn.Parameter(torch.ones(3)), made], 0.5, generator(0))
    assert set(made.grad.tolist()) == {0.0, 2.0}


def step(method, made, number, closure=lambda: 7):
    optimizer = torch.optim.SGD([made], lr=1.0)
    context = SimpleNamespace(seed=3, trainer=SimpleNamespace(global_step=number))
    return method.wrap_step(closure, optimizer, context)


def test_every_step_has_a_mask_of_its_own_and_1_changes_nothing():
    method = ChildTuning(0.5)
    method.key = "child_tuning"
    found = []
    for number in (0, 1, 0):
        made = parameter([0.0] * 64, [1.0] * 64)
        assert step(method, made, number) == 7
        found.append(made.grad)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    made = parameter([0.0] * 4, [1.0] * 4)
    step(ChildTuning(1.0), made, 0)
    assert made.grad.tolist() == [1.0] * 4
    assert ChildTuning(1.0).idle_settings() == ["keep"]


def test_it_masks_what_both_passes_of_sam_have_left():
    for methods in ({"sam": SAM(), "child": ChildTuning()}, {"child": ChildTuning(), "sam": SAM()}):
        composed = compose(methods, Environment("image", frozenset({"weak"})))
        assert list(composed.methods) == ["child", "sam"]
