"""A module as a function of its parameters."""

import pytest
import torch
from torch import nn

from recipes.services.detached import OfView, detached
from tests.support.harness import Setup


def test_the_gradient_passes_to_the_argument_and_not_to_the_parameters():
    module = nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    y = detached(module)(x)
    torch.testing.assert_close(y, module(x))
    y.square().sum().backward()
    expected = torch.autograd.grad(module(x).square().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)
    assert module.weight.grad is None and module.bias.grad is None


def test_two_players_each_get_the_gradient_of_their_own_loss():
    """A generator raises what a critic lowers: one backward for both."""
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    x = torch.randn(5, 2)
    loss = critic(generator(x).detach()).mean() - detached(critic)(generator(x)).mean()
    loss.backward()
    of_critic = torch.autograd.grad(critic(generator(x)).mean(), list(critic.parameters()))
    of_generator = torch.autograd.grad(-critic(generator(x)).mean(), list(generator.parameters()))
    found = [p.grad for p in (*critic.parameters(), *generator.parameters())]
    for own, expected in zip(found, (*of_critic, *of_generator), strict=True):
        torch.testing.assert_close(own, expected)


def test_other_values_take_the_gradient_in_place_of_the_parameters():
    module = nn.Linear(3, 2)
    weight = torch.zeros(2, 3, requires_grad=True)
    x = torch.ones(1, 3)
    y = detached(module, {"weight": weight})(x)
    torch.testing.assert_close(y, module.bias.expand(1, 2))
    y.sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 3)) and module.bias.grad is None
    with pytest.raises(KeyError, match=r"no parameter is named 'wieght'; did you mean 'weight'"):
        detached(module, {"wieght": weight})


def test_a_network_from_the_view_on_has_its_word_embeddings_replaced_too():
    network = Setup(kind="text").network()
    words = torch.zeros_like(network.words.weight).requires_grad_()
    view = {"ids": torch.tensor([[1, 2]]), "mask": torch.ones(1, 2, dtype=torch.bool)}
    output = detached(OfView(network), {"network.words.weight": words})(view)
    output.logits["label"].sum().backward()
    assert float(words.grad.abs().sum()) > 0 and network.words.weight.grad is None
