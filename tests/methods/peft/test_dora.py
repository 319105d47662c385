import copy

import pytest
import torch
from torch import nn

from methods.peft.dora import Directed, DoRA, lengths
from methods.peft.lora import LoRA
from methods.peft.sites import Site
from methods.peft.weights import connect, merge
from tests.support.small_networks import IMAGE, TEXT, features, fill, network, operate

W, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, -0.5])
A, B = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [0.0]])


def worked(bias=True):
    """The specification's layer of two inputs and outputs, α = 4, r = 1."""
    layer = nn.Linear(2, 2, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(W)
        if bias:
            layer.bias.copy_(b)
    delta = Directed(Site("layer", "linear", layer), rank=1, scale=4.0, dropout=0.0, init="kaiming")
    with torch.no_grad():
        delta.a.copy_(A), delta.b.copy_(B)
    return layer, delta


@pytest.mark.parametrize("bias", [True, False])
def test_worked_numbers(bias):
    layer, delta = worked(bias)
    torch.testing.assert_close(delta.m, torch.tensor([2.236068, 5.0]))
    torch.testing.assert_close(
        delta.changed(W)[0], torch.tensor([1.860521, -1.240347]), atol=1e-6, rtol=0
    )
    connect([delta], layer, parametrised=False)
    expected = torch.tensor([-1.360521, 14.5]) - (0 if bias else b)
    torch.testing.assert_close(layer(torch.tensor([1.0, 3.0])), expected, atol=1e-6, rtol=0)


def test_the_norm_passes_no_gradient():
    """∂W'/∂m is the direction, and that of B is m/c times LoRA's with c held."""
    layer, delta = worked()
    x = torch.tensor([[1.0, 3.0], [-2.0, 0.5]])
    connect([delta], layer, parametrised=False)
    layer(x).pow(2).sum().backward()
    m, low = delta.m.detach().clone().requires_grad_(), delta.b.detach().clone().requires_grad_()
    whole = W + 4 * low @ A
    made = x @ (m / whole.detach().norm(dim=1) * whole.T) + b
    made.pow(2).sum().backward()
    torch.testing.assert_close(delta.m.grad, m.grad)
    torch.testing.assert_close(delta.b.grad, low.grad)


def test_a_row_of_zeros_stays_finite():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    delta = Directed(Site("layer", "linear", layer), 1, 1.0, 0.0, "kaiming")
    connect([delta], layer, parametrised=False)
    layer(torch.ones(1, 3)).sum().backward()
    assert all(p.grad.isfinite().all() for p in delta.parameters())


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"bias": False}])
def test_a_convolutions_rows_have_a_length_over_the_kernel(settings):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, **{"padding": 1, **settings})
    delta = Directed(
        Site("conv", "conv.kxk", conv), rank=2, scale=0.7, dropout=0.0, init="gaussian"
    )
    nn.init.normal_(delta.b), nn.init.uniform_(delta.m, 0.5, 2.0)
    changed, x = copy.deepcopy(conv), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        changed.weight.copy_(delta.changed(conv.weight))
    torch.testing.assert_close(lengths(changed.weight), delta.m.detach())
    connect([delta], conv, parametrised=False)
    torch.testing.assert_close(conv(x), changed(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*IMAGE, *TEXT])
def test_every_network_starts_as_it_was_changes_with_the_deltas_and_merges(name):
    before = features(network(name))
    made = operate(DoRA(rank=4), network(name), "dora")
    torch.testing.assert_close(features(made), before, atol=1e-5, rtol=1e-5)
    fill(made, "dora")
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    restore = merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    assert made.state_dict().keys() == network(name).state_dict().keys()
    restore()
    assert torch.equal(features(made), changed)


def test_parts_of_a_fused_layer_have_lengths_of_their_own():
    made = operate(DoRA(rank=4), network("vit"), "dora")
    query, value = made.deltas["dora"][:2]
    weight = made.backbone.blocks[0].attn.qkv.weight
    torch.testing.assert_close(query.m, weight[:32].norm(dim=1))
    torch.testing.assert_close(value.m, weight[64:].norm(dim=1))
    fill(made, "dora")
    assert torch.equal(query.changed(weight)[32:], weight[32:])


def test_it_does_not_meet_lora():
    assert set(DoRA.declaration.refuses) & set(LoRA.declaration.tags)
