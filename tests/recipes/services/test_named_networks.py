"""A second network has the structure of the first and values of its own."""

import torch
from torch import nn

from recipes.services.named_networks import twin_of
from tests.support.harness import Setup, SmallNetwork


def other():
    torch.manual_seed(7)
    return SmallNetwork("image", {"label": 3}, norm=True)


def test_frozen_weights_with_equal_values_are_in_memory_once():
    network, fresh = Setup(norm=True).network(), other()
    network.body[0].requires_grad_(False)
    with torch.no_grad():
        fresh.body[0].weight.copy_(network.body[0].weight)
    twin = twin_of(network, fresh)
    assert twin.body[0].weight is network.body[0].weight
    # frozen at values of its own
    assert torch.equal(twin.body[0].bias, fresh.body[0].bias)
    assert not twin.body[0].bias.requires_grad
    assert twin.body[3].weight is not network.body[3].weight
    assert torch.equal(twin.body[3].weight, fresh.body[3].weight)


def test_what_only_the_first_has_starts_as_it_does_there():
    """A head that a method put in, and its factor of the learning rate."""
    network, fresh = Setup(norm=True).network(), other()
    network.heads["label"] = nn.Sequential(nn.Linear(16, 3))
    network.heads["label"][0].weight._lr_scale = 0.5
    network.gates = object()
    twin = twin_of(network, fresh)
    assert torch.equal(twin.heads["label"][0].weight, network.heads["label"][0].weight)
    assert twin.heads["label"][0].weight is not network.heads["label"][0].weight
    assert twin.heads["label"][0].weight._lr_scale == 0.5
    assert twin.gates is None and network.gates is not None
