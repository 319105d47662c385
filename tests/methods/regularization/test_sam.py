from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.regularization.sam import SAM, ascent
from methods.semi_supervised.fixmatch import FixMatch
from recipes.config.resolve import resolve_command
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble
from recipes.step import Stream
from tests.support.harness import Setup, build, fit, noisy_view, train, values_differ
from tests.support.two_passes import weights_are_restored


def test_ascent_against_numpy():
    source = torch.Generator().manual_seed(0)
    w, g = ([torch.randn(shape, generator=source) for shape in ((3, 2), (4,))] for _ in range(2))
    norm = np.sqrt(sum((x.numpy() ** 2).sum() for x in g))
    for step, gradient in zip(ascent(w, g, 0.05, adaptive=False), g, strict=True):
        np.testing.assert_allclose(step.numpy(), 0.05 * gradient.numpy() / norm, rtol=1e-5)
    norm = np.sqrt(sum(((a * b).numpy() ** 2).sum() for a, b in zip(w, g, strict=True)))
    for step, a, b in zip(ascent(w, g, 0.5, adaptive=True), w, g, strict=True):
        np.testing.assert_allclose(step.numpy(), 0.5 * (a**2 * b).numpy() / norm, rtol=1e-5)


def test_ascent_has_length_rho_whatever_the_scale_and_is_zero_without_gradient():
    g = [torch.randn(5, generator=torch.Generator().manual_seed(0))]
    for scale in (1e-30, 1e-12, 1.0, 65536.0):
        (step,) = ascent(g, [scale * g[0]], 0.05, adaptive=False)
        assert float(step.norm()) == pytest.approx(0.05, rel=1e-5)
    assert ascent(g, [torch.zeros(5)], 0.05, adaptive=False)[0].tolist() == [0] * 5


def test_a_quadratic_takes_the_closed_form_step():
    """w' = w - γ A (w + ρ A w / ‖A w‖) for the loss ½ wᵀ A w."""
    A = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([w], lr=0.1)
    recipe = SimpleNamespace(replay=nullcontext, trainer=SimpleNamespace(strategy=None))

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * w @ A @ w
        loss.backward()
        return loss.detach()

    for _ in range(5):
        start = w.detach().numpy().astype(np.float64)
        slope = A.numpy().astype(np.float64) @ start
        expected = start - 0.1 * A.numpy() @ (start + 0.3 * slope / np.linalg.norm(slope))
        loss = optimizer.step(lambda: SAM(rho=0.3).wrap_step(closure, optimizer, recipe))
        assert float(loss) == pytest.approx(0.5 * start @ A.numpy() @ start, rel=1e-5)
        np.testing.assert_allclose(w.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_true_steps_equal_a_two_pass_loop(adaptive, kind):
    setup = Setup(kind=kind, steps=4, momentum=0.9, norm=True)
    result = train(
        {"sam": SAM(rho=0.1, adaptive=adaptive)}, kind=kind, steps=4, momentum=0.9, norm=True
    )
    network, losses = setup.network(), []
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, lr=setup.lr, momentum=0.9)
    for position, batch in enumerate(setup.batches({"labeled"})):
        view = noisy_view(Stream("labeled", **batch["labeled"]), "weak", Randomness(0, position))

        def gradients(view=view, batch=batch):
            optimizer.zero_grad()
            logits = network(network.embed(view)).logits["label"]
            loss = F.cross_entropy(logits, batch["labeled"]["targets"]["label"])
            loss.backward()
            return loss.item(), [w.grad.clone() for w in weights]

        loss, first = gradients()
        losses.append(loss)
        before = [w.detach().clone() for w in weights]
        scaled = [
            w.detach().abs() * g if adaptive else g for w, g in zip(weights, first, strict=True)
        ]
        norm = torch.cat([s.flatten() for s in scaled]).norm()
        with torch.no_grad():
            for w, s in zip(weights, scaled, strict=True):
                w += 0.1 * s / norm * (w.abs() if adaptive else 1)
        gradients()
        with torch.no_grad():
            for w, b in zip(weights, before, strict=True):
                w.copy_(b)
        optimizer.step()
    assert result.losses == pytest.approx(losses, abs=1e-6)
    for name, value in network.named_parameters():
        torch.testing.assert_close(result.parameters[name], value.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"norm": True}, {"dropout": 0.5}, {"kind": "text", "dropout": 0.3}]
)
def test_rho_zero_is_plain_training_bit_for_bit(settings):
    """Dropout would tell a second pass with other masks, batch norm one that counted its statistics
    again."""
    plain, sam = train(steps=4, **settings), train({"sam": SAM(rho=0.0)}, steps=4, **settings)
    assert sam.losses == plain.losses
    assert values_differ(plain.parameters, sam.parameters) == []
    assert sam.recipe.network.calls == 2 * plain.recipe.network.calls


def test_rho_zero_is_plain_training_with_an_unlabeled_loss():
    other = {"fixmatch": FixMatch(threshold=0.3)}
    plain, sam = (
        train(other, steps=3),
        train({"fixmatch": FixMatch(threshold=0.3), "sam": SAM(rho=0.0)}, steps=3),
    )
    assert sam.history == plain.history
    assert values_differ(plain.parameters, sam.parameters) == []


def test_weights_are_restored_bit_for_bit_before_the_step():
    assert weights_are_restored({"sam": SAM(rho=0.7)})


def test_statistics_and_metrics_count_the_first_pass_only():
    plain, sam = (
        train(steps=3, norm=True, lr=0.0),
        train({"sam": SAM(rho=5.0)}, steps=3, norm=True, lr=0.0),
    )
    assert sam.history == plain.history
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(sam.parameters[f"body.1.{name}"], plain.parameters[f"body.1.{name}"])


def test_clipping_acts_on_the_second_gradient_once():
    setup = Setup(steps=1)
    clipped = fit(build({"sam": SAM(rho=0.1)}, setup), setup, gradient_clip_val=1e-3)
    start = setup.network().state_dict()
    moved = torch.cat([(clipped.parameters[name] - start[name]).flatten() for name in start])
    assert float(moved.norm()) == pytest.approx(setup.lr * 1e-3, rel=1e-3)


def test_accumulation_is_refused():
    with pytest.raises(
        UserError, match=r"methods.sam is not exact with trainer.accumulate_grad_batches=2"
    ):
        Setup(accumulate=2).composition({"sam": SAM()})


def test_the_plan_says_that_devices_climb_by_their_own_gradients():
    assert not SAM().declare().ddp_exact and SAM(sync=True).declare().ddp_exact
    line = "on several devices not identical to one: weights ascend by each device's own gradient"
    for sync, said in (("false", True), ("true", False)):
        command = ["data=digits", "regularization=sam", f"methods.sam.sync={sync}"]
        assembly = assemble(resolve_command(command).config)
        assert (line in describe(assembly, assembly.meta_network())) is said
