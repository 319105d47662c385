import pytest
import torch
import torch.nn.functional as F

from methods.adversarial.trades import TRADES, divergence_from_clean
from recipes.step import Embedded, Input
from tests.support.attack_loops import assert_same, descend, logits, weak_batches
from tests.support.harness import Setup, SmallNetwork, build, fit, step_with, train
from tests.support.worked_attacks import X, Y, linear


def test_the_worked_example():
    """CE + 6 KL = .24592578 at x_adv = (.25, .6, .6, .8)."""
    z, moved = linear(X)["label"], linear(torch.tensor([[0.25, 0.6, 0.6, 0.8]]))["label"]
    method = TRADES(beta=6.0)
    method.key = "trades"
    step = step_with({"labeled": z, "trades": moved}, Y)
    method.terms(step, None)
    total = F.cross_entropy(z, Y) + step.terms["trades"].weight * step.terms["trades"].reduced()
    assert float(total) == pytest.approx(0.24592578, abs=1e-6)


def test_true_steps_equal_a_plain_loop():
    setup = Setup(steps=3)
    result = train({"trades": TRADES(beta=4.0, eps=0.1, steps=3, step_size=0.04)}, steps=3)
    network, losses = setup.network(), []
    for _, x, targets, randomness in weak_batches(setup):
        p = logits(network, Embedded(x)).softmax(1).detach()
        there = (x + 0.001 * randomness.draw("trades/start", len(x)).normal(*x.shape[1:])).clamp(
            0, 1
        )
        for _ in range(3):
            there.requires_grad_(True)
            q = logits(network, Embedded(there)).log_softmax(1)
            (g,) = torch.autograd.grad(F.kl_div(q, p, reduction="sum"), there)
            there = (x + (there.detach() + 0.04 * g.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
        z, attacked = logits(network, Embedded(x)), logits(network, Embedded(there))
        kl = F.kl_div(attacked.log_softmax(1), z.softmax(1), reduction="batchmean")
        loss = F.cross_entropy(z, targets["label"]) + 4.0 * kl
        descend(network, list(torch.autograd.grad(loss, list(network.parameters()))), setup.lr)
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, abs=1e-5)
    assert_same(result, network)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_beta_zero_is_plain_training_and_radius_zero_adds_nothing(kind):
    plain = train(kind=kind)
    for method in (TRADES(beta=0.0, steps=2), TRADES(eps=0.0, steps=2)):
        result = train({"trades": method}, kind=kind)
        if method.eps == 0:
            assert all(row["train/trades"] == pytest.approx(0, abs=1e-6) for row in result.history)
        for name, value in plain.parameters.items():
            torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)


def test_a_start_at_the_sample_would_never_move():
    setup = Setup()
    recipe = build({}, setup).eval()
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    from methods.adversarial.attacks.losses import input_gradient

    value = divergence_from_clean(recipe, Input("labeled", Embedded(x)))
    assert float(input_gradient(value, x).abs().max()) < 1e-6
    assert float(input_gradient(value, x + 0.05).abs().max()) > 1e-5


class Broken(SmallNetwork):
    """The gradient by the first pixel is not finite in evaluation mode, in which an attack sees the
    network."""

    def features(self, embedded):
        found = super().features(embedded)
        return found if self.training else found + (embedded.x[:, :1, 0, 0] * 0).abs().sqrt()


def test_gradients_that_are_not_finite_are_counted_and_reported_at_the_end(tmp_path, recwarn):
    setup, method = Setup(steps=2), TRADES(eps=0.1, steps=3)
    result = fit(build({"trades": method}, setup, Broken("image", setup.tasks)), setup)
    recwarn.clear()
    method.save_artifacts(tmp_path, result.recipe)
    # two steps, three of the attack each, six samples
    assert [str(w.message).split(" entries")[0] for w in recwarn] == ["methods.trades: 36"]
    assert all(torch.isfinite(p).all() for p in result.parameters.values())
    healthy = TRADES(eps=0.1, steps=3)
    healthy.save_artifacts(tmp_path, train({"trades": healthy}, steps=1).recipe)
    assert len(recwarn) == 1


def test_several_tasks_have_a_term_each():
    result = train({"trades": TRADES(eps=0.1, steps=2)}, tasks={"a": 3, "b": 2})
    assert {"train/trades/a", "train/trades/b"} <= result.history[0].keys()
    assert all(row["train/trades/a"] > 0 and row["train/trades/b"] > 0 for row in result.history)


def test_clean_and_attacked_share_one_forward():
    result = train({"trades": TRADES(eps=0.1, steps=2)}, steps=1, norm=True)
    # p(x), two steps of the attack, and one forward of both
    assert result.recipe.network.sizes == [6, 6, 6, 12]
