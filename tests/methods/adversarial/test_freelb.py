import math

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.freelb import FreeLB, ascend, initial_delta
from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from recipes.step import Embedded
from tests.support.attack_loops import assert_same, clipped, descend, logits, weak_batches
from tests.support.harness import Setup, train


def test_two_steps_of_the_specification():
    """a = .1 twice along [[3, 0], [0, 4]] is .2 long, projected to .15: [[.09, 0], [0, .12]]."""
    g, threat = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), Threat("l2", 0.15, None)
    x = torch.zeros(1, 2, 2)
    delta = ascend(x, ascend(x, x, g, threat, 0.1), g, threat, 0.1)
    torch.testing.assert_close(delta, torch.tensor([[[0.09, 0.0], [0.0, 0.12]]]))


def test_the_first_perturbation():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    x = torch.zeros(2, 3, 50)
    delta = initial_delta(x, Threat("l2", 1.0, None, mask), 0.6, Randomness(0, 0).draw("x", 2))
    assert (delta[~mask] == 0).all()
    for row, words in ((0, 2), (1, 1)):
        bound = 0.6 / math.sqrt(50 * words)
        assert 0.9 * bound < float(delta[row].abs().max()) <= bound
    assert (
        float(
            initial_delta(x, Threat("linf", 1.0, None, mask), 0.6, Randomness(0, 0).draw("x", 2))
            .abs()
            .max()
        )
        > 0.5
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_of_a_confident_sample_moves_as_far_as_any(norm):
    g = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(2, 3, 4)
    threat = Threat(norm, torch.inf, box=None)
    small = ascend(x, x, 1e-30 * g, threat, 0.1)
    torch.testing.assert_close(small, ascend(x, x, g, threat, 0.1))


def test_linf_moves_along_the_gradient_over_its_largest_entry():
    g = torch.tensor([[1.0, -4.0]])
    there = ascend(torch.zeros(1, 2), torch.zeros(1, 2), g, Threat("linf", 0.15, None), 0.2)
    torch.testing.assert_close(there, torch.tensor([[0.05, -0.15]]))


@pytest.mark.parametrize("max_norm", [0.0, 0.3])
def test_true_steps_equal_a_plain_loop(max_norm):
    setup = Setup(kind="text", steps=2)
    result = train(
        {"freelb": FreeLB(steps=3, step_size=0.4, start=0.5, max_norm=max_norm)},
        kind="text",
        steps=2,
    )
    network = setup.network()
    for _, view, targets, randomness in weak_batches(setup):
        y, mask = targets["label"], view["mask"].unsqueeze(-1).float()
        uniform = randomness.draw("freelb/start", len(y)).uniform(mask.shape[1], 16, low=-1.0)
        delta = mask * uniform * 0.5 / (mask.sum(1, keepdim=True) * 16).sqrt()

        def bounded(delta):
            norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1)
            return delta * (max_norm / norm).clamp_max(1.0) if max_norm else delta

        delta, total = bounded(delta), [torch.zeros_like(w) for w in network.parameters()]
        for _ in range(3):
            delta.requires_grad_(True)
            z = logits(network, Embedded(network.embed(view).x + delta, view["mask"]))
            *gradients, g = torch.autograd.grad(
                F.cross_entropy(z, y), [*network.parameters(), delta]
            )
            total = [a / 3 + b for a, b in zip(gradients, total, strict=True)]
            delta = bounded(
                delta.detach() + 0.4 * g * mask / (g * mask).flatten(1).norm(dim=1).view(-1, 1, 1)
            )
        descend(network, total, setup.lr)
    assert_same(result, network)


@pytest.mark.parametrize(
    "settings", [{"norm": True}, {"dropout": 0.5}, {"kind": "text", "dropout": 0.3}]
)
@pytest.mark.parametrize("steps", [1, 3])
def test_without_perturbation_it_is_plain_training(settings, steps):
    """Dropout masks are shared by the passes, and statistics counted once."""
    settings = settings | {"view": clipped}
    plain, result = (
        train(**settings),
        train({"freelb": FreeLB(steps=steps, step_size=0.0)}, **settings),
    )
    assert result.losses == pytest.approx(plain.losses, abs=1e-6)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)
    assert result.recipe.network.calls == steps * plain.recipe.network.calls


def test_beside_an_unlabeled_loss_pixels_stay_in_range():
    seen = []

    class Watching(FreeLB):
        def prepare(self, step, recipe):
            super().prepare(step, recipe)
            if step.inputs["labeled"].embedded.mask is None:
                seen.append(step.inputs["labeled"].embedded.x.detach())

    result = train(
        {"freelb": Watching(steps=3, step_size=3.0), "fixmatch": FixMatch(threshold=0.2)}, steps=2
    )
    assert all(math.isfinite(loss) for loss in result.losses) and len(seen) == 6
    assert not torch.equal(seen[0], seen[1])
    assert all(float(x.min()) >= -1e-6 and float(x.max()) <= 1 + 1e-6 for x in seen)


def test_refusals():
    with pytest.raises(UserError, match="both own the second pass of a step"):
        train({"freelb": FreeLB(), "sam": SAM()})
    with pytest.raises(
        UserError, match=r"methods.freelb is not exact with trainer.accumulate_grad_batches=2"
    ):
        train({"freelb": FreeLB()}, accumulate=2)
