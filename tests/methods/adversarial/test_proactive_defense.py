"""Rounds of attack and training: the worked example, the identity, pgd_at, and the frozen copy."""

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.fgsm import FGSM
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.pgd_at import PGDAT
from methods.adversarial.proactive_defense import ATTACKED, ProactiveDefense, round_of
from methods.regularization.sam import SAM
from recipes.step import Embedded
from tests.support.attack_loops import assert_same, clipped, descend, logits, weak_batches
from tests.support.harness import LABELED_SAMPLES, Setup, build, train, values_differ
from tests.support.worked_attacks import B, W, X, Y, value

KEY = "proactive_defense"


def test_one_round_of_the_specification():
    """x̂ = FGSM; one step of rate 1 on x̂."""
    from methods.adversarial.attacks.attack import Victim
    from methods.adversarial.attacks.threat import Threat
    from tests.support.worked_attacks import linear

    attacked = FGSM()(Victim(linear, X, {"label": Y}), Threat("linf", 0.1), None)
    torch.testing.assert_close(attacked, torch.tensor([[0.1, 0.6, 0.6, 0.8]]))
    assert value(attacked) == pytest.approx(0.22300551, abs=1e-7)
    w, b = W.clone().requires_grad_(), B.clone().requires_grad_()
    loss = F.cross_entropy(attacked @ w.T + b, Y)
    grad_w, grad_b = torch.autograd.grad(loss, (w, b))
    w, b = (w - grad_w).detach(), (b - grad_b).detach()
    expected = torch.tensor([0.01978185, 0.19988956, -0.21967141])
    torch.testing.assert_close(b, expected, atol=1e-7, rtol=0)
    for x, there in ((attacked, 0.11489236), (X, 0.06800662)):
        assert float(F.cross_entropy(x @ w.T + b, Y)) == pytest.approx(there, abs=1e-7)


def test_rounds_are_passes():
    assert [round_of(step, 4.0) for step in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert [round_of(step, 2.5) for step in range(8)] == [0, 0, 0, 1, 1, 2, 2, 2]
    # rounds shorter than a step are a step
    assert [round_of(step, 0.1) for step in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("random_start", [True, False])
def test_a_refresh_in_every_step_is_pgd_at_bit_for_bit(random_start):
    settings = {"eps": 0.1, "steps": 3, "random_start": random_start}
    run = {"steps": 4, "norm": True, "view": clipped}
    expected = train({"pgd_at": PGDAT(**settings)}, **run)
    found = train({KEY: ProactiveDefense(refresh="step", **settings)}, **run)
    assert found.history == expected.history
    assert values_differ(found.parameters, expected.parameters) == []
    other = train({KEY: ProactiveDefense(refresh="round", **settings)}, **run)
    assert values_differ(other.parameters, expected.parameters) != []


@pytest.mark.parametrize("refresh", ["round", "step"])
def test_no_radius_is_plain_training(refresh):
    settings = {"steps": 3, "dropout": 0.5, "view": clipped}
    plain = train(**settings)
    defended = train({KEY: ProactiveDefense(refresh=refresh, eps=0.0)}, **settings)
    assert defended.losses == plain.losses
    assert values_differ(plain.parameters, defended.parameters) == []


class Watching(ProactiveDefense):
    """Keeps the weights that it attacked, and δ."""

    def prepare(self, step, context):
        before = step.inputs["labeled"].embedded.x
        super().prepare(step, context)
        name = "labeled" if self.data == "adv" else self.key
        delta = (step.inputs[name].embedded.x - before).detach()
        weights = torch.cat([p.detach().flatten() for p in self.snapshot(context).parameters()])
        current = torch.cat([p.detach().flatten() for p in context.network.parameters()])
        seen = (step.progress.step, weights.clone(), current.clone(), delta, step.replay)
        self.seen = [*getattr(self, "seen", []), seen]

    def snapshot(self, context):
        return context.networks[ATTACKED]


def test_the_copy_is_that_of_the_start_of_the_round():
    # 24 labels in batches of 6: a round of half a pass has two steps
    watching = Watching(passes=0.5, eps=0.1, steps=2)
    train({KEY: watching}, steps=5)
    assert LABELED_SAMPLES == 24
    weights = [seen[1] for seen in watching.seen]
    current = [seen[2] for seen in watching.seen]
    for step in range(5):
        assert torch.equal(weights[step], current[step - step % 2])
    assert not torch.equal(weights[1], current[1])


def test_a_second_pass_over_a_batch_copies_no_perturbed_weights():
    watching = Watching(passes=0.25, eps=0.1, steps=2)
    train({KEY: watching, "sam": SAM(rho=0.5)}, steps=3)
    assert [seen[4] for seen in watching.seen] == [False, True] * 3
    for first, second in zip(watching.seen[::2], watching.seen[1::2], strict=True):
        assert torch.equal(first[1], second[1]) and torch.equal(first[3], second[3])
        assert not torch.equal(second[1], second[2])


def test_micro_batches_of_a_step_attack_one_copy():
    watching = Watching(passes=0.5, eps=0.1, steps=1)
    train({KEY: watching}, steps=3, accumulate=2)
    # 24 labels in steps of 12: a round of half a pass has one step
    for first, second in zip(watching.seen[::2], watching.seen[1::2], strict=True):
        assert torch.equal(first[1], second[1]) and torch.equal(first[1], first[2])


def test_true_steps_equal_a_plain_loop():
    """One step of a random start by (round, sample), on the copy in evaluation mode."""
    setup = Setup(steps=3, dropout=0.0)
    settings = {"passes": 0.5, "eps": 0.1, "steps": 1, "step_size": 0.04}
    result = train({KEY: ProactiveDefense(**settings)}, steps=3)
    network = setup.network()
    for position, x, targets, _ in weak_batches(setup):
        if position % 2 == 0:
            copy = setup.network()
            copy.load_state_dict(network.state_dict())
        index = setup.batches({"labeled"})[position]["labeled"]["index"]
        rows = SampleRandomness(setup.seed, index).draw(f"{KEY}/{position // 2}/start")
        y, there = targets["label"], (x + rows.uniform(3, 8, 8, low=-0.1, high=0.1)).clamp(0, 1)
        there = (x + (there - x).clamp(-0.1, 0.1)).clamp(0, 1).requires_grad_()
        loss = F.cross_entropy(logits(copy, Embedded(there)), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, there)
        there = (x + (there.detach() + 0.04 * g.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
        loss = F.cross_entropy(logits(network, Embedded(there)), y)
        descend(network, list(torch.autograd.grad(loss, list(network.parameters()))), setup.lr)
    assert_same(result, network)


def test_clean_and_attacked_samples_share_the_loss():
    settings = {"eps": 0.1, "steps": 2, "random_start": False}
    run = {"steps": 1, "view": clipped, "missing": True}
    clean = train(**run).losses[0]
    attacked = train({KEY: ProactiveDefense(**settings)}, **run).losses[0]
    both = train({KEY: ProactiveDefense(data="clean_and_adv", **settings)}, **run)
    assert both.losses[0] == pytest.approx((clean + attacked) / 2, rel=1e-6)
    assert both.history[0]["train/supervised"] == pytest.approx(clean, rel=1e-6)
    assert both.history[0][f"train/{KEY}"] == pytest.approx(attacked, rel=1e-6)


def test_an_attack_without_gradients():
    watching = Watching(eps=0.2, attack=Square(5))
    train({KEY: watching}, steps=1, view=clipped)
    moved = watching.seen[0][3].flatten(1).abs().amax(1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.2), atol=1e-6, rtol=0)


def test_the_copy_is_saved_in_evaluation_mode_and_takes_no_gradient():
    recipe = build({KEY: ProactiveDefense()}, Setup(norm=True))
    recipe.train()
    copy = recipe.networks[ATTACKED]
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert any(ATTACKED in name for name in recipe.state_dict())
    step = build({KEY: ProactiveDefense(refresh="step")}, Setup())
    assert not any(ATTACKED in name for name in step.state_dict())


def test_one_owner_of_the_attack():
    with pytest.raises(UserError, match="both own the attack on labeled inputs"):
        train({"pgd_at": PGDAT(), KEY: ProactiveDefense()})
