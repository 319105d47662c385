import pytest
import torch
import torch.nn.functional as F

from methods.adversarial.attacks.losses import (
    counting,
    dlr,
    fixed,
    input_gradient,
    margin,
    objective,
)
from recipes.step.criterion import kl_divergence
from tests.support.worked_attacks import W, X, Y, convolutional, linear, of, pictures


def test_the_gradient_of_the_worked_example():
    torch.testing.assert_close(linear(X)["label"], torch.tensor([[-0.85, 2.0, -0.4]]))
    gradient = input_gradient(objective(linear, {"label": Y}), X)
    expected = torch.tensor([[-0.02862155, -0.19057908, 0.15452748, -0.29818455]])
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=0)


def test_the_margin_is_the_targeted_difference():
    """max_j z_j - z_y at y = 1 is z_2 - z_1 here; its gradient is the difference of two rows of
    W."""
    assert float(margin(linear(X)["label"], Y)) == pytest.approx(-2.4)
    gradient = input_gradient(objective(linear, {"label": Y}, "margin"), X)
    torch.testing.assert_close(gradient, (W[2] - W[1]).unsqueeze(0))


def test_dlr_of_the_specification_and_its_invariances():
    z = torch.tensor([[2, 0.5, 1, -1], [2, 0.5, 1, -1]])
    y = torch.tensor([0, 1])
    torch.testing.assert_close(dlr(z, y), torch.tensor([-2 / 3, 1.0]))
    torch.testing.assert_close(dlr(1e3 * z + 7, y), dlr(z, y), atol=1e-4, rtol=0)


def test_divergence_against_torch_and_the_worked_example():
    """x_adv = (.25, .6, .6, .8): KL(p ‖ q) = .01790247."""
    z, moved = linear(X)["label"], linear(torch.tensor([[0.25, 0.6, 0.6, 0.8]]))["label"]
    torch.testing.assert_close(z.softmax(1), torch.tensor([[0.05036237, 0.87065371, 0.07898392]]))
    torch.testing.assert_close(
        moved.softmax(1), torch.tensor([[0.09354511, 0.80307155, 0.10338334]])
    )
    assert float(kl_divergence(z, moved, from_logits=True)) == pytest.approx(0.01790247, abs=1e-7)
    source = torch.Generator().manual_seed(0)
    a, b = torch.randn(7, 4, generator=source), torch.randn(7, 4, generator=source)
    reference = F.kl_div(b.log_softmax(1), a.softmax(1), reduction="batchmean")
    torch.testing.assert_close(kl_divergence(a, b, from_logits=True).mean(), reference)
    assert float(kl_divergence(a, a, from_logits=True).abs().max()) == 0


def test_parameters_keep_their_gradients_and_a_sample_its_own():
    model, (x, y) = convolutional(), pictures()
    gradient = input_gradient(of(model, y), x)
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad
    alone = torch.cat(
        [input_gradient(of(model, y[i : i + 1]), x[i : i + 1]) for i in range(len(x))]
    )
    torch.testing.assert_close(gradient, alone, atol=1e-7, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(input_gradient(of(model, y), x), gradient)


def test_entries_that_are_not_finite_are_counted_where_somebody_asks():
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0]])

    def value(x):
        return x.sqrt().sum(1)

    gradient = input_gradient(value, x)
    with counting() as counts:
        torch.testing.assert_close(input_gradient(value, x), gradient)
        input_gradient(value, x[:1])
    assert [int(count) for count in counts] == [3, 1] == [int((~gradient.isfinite()).sum()), 1]


def test_several_tasks_add_and_a_missing_label_counts_nothing():
    model, (x, y) = convolutional(), pictures()
    two = objective(lambda x: {"a": model(x), "b": -model(x)}, {"a": y, "b": y})
    torch.testing.assert_close(two(x), of(model, y)(x) + of(lambda x: -model(x), y)(x))
    missing = y.clone()
    missing[0] = -1
    for loss in ("ce", "margin", "dlr"):
        assert of(model, missing, loss)(x)[0].item() == 0
        assert (input_gradient(of(model, missing, loss), x)[0] == 0).all()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_a_mixed_target_is_attacked_as_it_is(loss):
    model, (x, y) = convolutional(), pictures()
    dense = 0.3 * F.one_hot(y, 5) + 0.7 * F.one_hot((y + 1) % 5, 5)
    expected = 0.3 * of(model, y, loss)(x) + 0.7 * of(model, (y + 1) % 5, loss)(x)
    torch.testing.assert_close(of(model, dense, loss)(x), expected)


def test_a_fixed_network_gives_the_same_gradient_and_learns_again_afterwards():
    model, (x, y) = convolutional(), pictures()
    model[0].weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    free = input_gradient(of(model, y), x)
    with pytest.raises(RuntimeError, match="inside"), fixed(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert torch.equal(input_gradient(of(model, y), x), free)
        raise RuntimeError("inside")
    assert [parameter.requires_grad for parameter in model.parameters()] == before
