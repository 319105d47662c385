import pytest
import torch
import torch.nn.functional as F

from datamodules.samplers import ShuffledPasses
from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.adversarial.free_at import FreeAT, RowPerturbations, replayed
from methods.regularization.mixup import Mixup
from recipes.step import Embedded, Stream
from tests.support.attack_loops import assert_same, clipped, descend, logits
from tests.support.harness import Setup, noisy_view, train


def order(times, size=10, batch=4):
    return replayed({"label": torch.zeros(size)}, batch, 99, seed=0, stream="labeled", times=times)


def test_every_batch_comes_several_times_in_a_row():
    passes = ShuffledPasses(10, 0, "labeled")
    found = order(3).take(0, 9 * 4).view(9, 4)
    for step in range(9):
        assert torch.equal(found[step], passes.take(step // 3 * 4, step // 3 * 4 + 4))
    assert torch.equal(order(1).take(0, 24), passes.take(0, 24))


def test_the_order_can_be_read_anywhere():
    whole = order(3).take(0, 60)
    for start, stop in ((0, 1), (3, 17), (16, 32), (22, 23), (30, 60)):
        assert torch.equal(order(3).take(start, stop), whole[start:stop])


def test_true_steps_equal_a_plain_loop():
    """Views of the first replay, one backward for weights and δ, δ kept by row; the harness brings
    other samples at every step, which the order would not."""
    setup, eps = Setup(steps=5), 0.1
    result = train({"free_at": FreeAT(eps=eps, replays=2)}, steps=5, view=clipped)
    network, delta = setup.network(), torch.zeros(6, 3, 8, 8)
    for position, batch in enumerate(setup.batches({"labeled"})):
        first = Randomness(setup.seed, position - position % 2)
        x = clipped(Stream("labeled", **batch["labeled"]), "weak", first)
        seen = (x + delta).clamp(0, 1).requires_grad_(True)
        loss = F.cross_entropy(
            logits(network, Embedded(seen)), batch["labeled"]["targets"]["label"]
        )
        *gradients, g = torch.autograd.grad(loss, [*network.parameters(), seen])
        # a pixel on a bound may move, one beyond it is held there
        g = g * ((x + delta >= 0) & (x + delta <= 1))
        delta = (delta.detach() + eps * g.sign()).clamp(-eps, eps)
        descend(network, gradients, setup.lr)
    assert_same(result, network)
    torch.testing.assert_close(result.recipe.method_modules["free_at"].delta, delta)
    assert result.recipe.network.calls == 5


def test_pixels_on_a_bound_are_perturbed_like_all_others():
    """Pictures of 0 and 1 alone, as scanned digits are: after one step δ is ±eps everywhere."""

    def black_and_white(stream, view, randomness):
        return (noisy_view(stream, "raw", randomness) > 0.3).float()

    result = train({"free_at": FreeAT(eps=0.1)}, steps=1, view=black_and_white)
    delta = result.recipe.method_modules["free_at"].delta
    # the network's convolutions with stride 2 do not see the last row and column
    seen = delta[..., :7, :7].abs()
    torch.testing.assert_close(seen, torch.full((6, 3, 7, 7), 0.1))


def test_radius_zero_with_one_replay_is_plain_training_on_clipped_pixels():
    plain = train(view=clipped, norm=True)
    result = train({"free_at": FreeAT(eps=0.0, replays=1)}, view=clipped, norm=True)
    for name, value in plain.parameters.items():
        assert torch.equal(result.parameters[name], value), name


def test_the_perturbation_is_loaded_whatever_its_shape():
    kept, fresh = RowPerturbations(), RowPerturbations()
    kept.delta = torch.rand(4, 3, 8, 8)
    fresh.load_state_dict(kept.state_dict())
    assert torch.equal(fresh.delta, kept.delta)
    x = torch.zeros(2, 3, 8, 8)
    assert torch.equal(fresh.rows(x, 1), kept.delta[2:])
    assert torch.equal(RowPerturbations().rows(x, 1), x)


def test_refusals():
    with pytest.raises(
        UserError, match="its perturbation belongs to a row, and mixing draws new partners"
    ):
        train({"free_at": FreeAT(), "mixup": Mixup()})
    with pytest.raises(UserError, match=r"methods.free_at works on image data"):
        train({"free_at": FreeAT()}, kind="text")
