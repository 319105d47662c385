import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from methods.adversarial.awp import AWP, perturbation
from methods.regularization.sam import SAM
from recipes.step import Embedded
from tests.support.attack_loops import assert_same, descend, logits, weak_batches
from tests.support.harness import Setup, train, values_differ
from tests.support.two_passes import weights_are_restored


def test_the_worked_example():
    w, g = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.1, 0.0], [0.0, -0.2]])
    for scale in (1.0, 65536.0, 1e-12):
        (v,) = perturbation([w], [scale * g], 0.01)
        torch.testing.assert_close(v, torch.tensor([[0.02449490, 0.0], [0.0, -0.04898979]]))
        assert float(v.norm() / w.norm()) == pytest.approx(0.01)


def test_layers_have_norms_of_their_own_and_zeros_stay():
    w = [torch.ones(2, 2), torch.zeros(2, 2), torch.full((2, 2), 5.0)]
    g = [torch.ones(2, 2), torch.ones(2, 2), torch.zeros(2, 2)]
    v = perturbation(w, g, 0.1)
    assert float(v[0].norm()) == pytest.approx(0.2)
    assert v[1].tolist() == v[2].tolist() == [[0, 0], [0, 0]]


def test_true_steps_equal_a_plain_loop():
    setup = Setup(steps=3)
    result = train({"awp": AWP(gamma=0.2)}, steps=3)
    network = setup.network()
    for _, x, targets, _ in weak_batches(setup):

        def gradients(x=x, y=targets["label"]):
            loss = F.cross_entropy(logits(network, Embedded(x)), y)
            return list(torch.autograd.grad(loss, list(network.parameters())))

        before = [w.detach().clone() for w in network.parameters()]
        with torch.no_grad():
            for w, g in zip(network.parameters(), gradients_of(gradients), strict=True):
                if w.ndim >= 2:
                    w += 0.2 * w.norm() * g / g.norm()
        second = gradients()
        with torch.no_grad():
            for w, b in zip(network.parameters(), before, strict=True):
                w.copy_(b)
        descend(network, second, setup.lr)
    assert_same(result, network)


def gradients_of(compute):
    with torch.enable_grad():
        return compute()


@pytest.mark.parametrize(
    "settings", [{"norm": True}, {"dropout": 0.5}, {"kind": "text", "dropout": 0.3}]
)
def test_gamma_zero_is_plain_training_bit_for_bit(settings):
    plain, result = train(**settings), train({"awp": AWP(gamma=0.0)}, **settings)
    assert result.losses == plain.losses
    assert values_differ(plain.parameters, result.parameters) == []


def test_weights_are_restored_bit_for_bit_before_the_step():
    assert weights_are_restored({"awp": AWP(gamma=0.7)})


def test_it_sets_in_after_the_warmup():
    result = train({"awp": AWP(warmup=0.5)}, steps=4)
    assert result.recipe.network.calls == 2 + 2 * 2


def test_refusals():
    with pytest.raises(UserError, match="both own the second pass of a step"):
        train({"awp": AWP(), "sam": SAM()})
    with pytest.raises(
        UserError, match=r"methods.awp is not exact with trainer.accumulate_grad_batches=2"
    ):
        train({"awp": AWP()}, accumulate=2)


def test_the_smallest_gradient_moves_as_far_as_any():
    """The squares of 1e-30 underflow."""
    w = [torch.full((2, 3), 2.0)]
    g = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    (large,) = perturbation(w, [g], 0.1)
    (small,) = perturbation(w, [1e-30 * g], 0.1)
    torch.testing.assert_close(small, large)
    assert float(large.norm()) == pytest.approx(0.1 * float(w[0].norm()))
