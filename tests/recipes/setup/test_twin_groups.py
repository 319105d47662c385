"""Parameters of a second network are in the groups of the first one's."""

from types import SimpleNamespace

import torch
from torch import nn

from recipes.setup.parts import with_twins


def test_a_twins_parameters_have_the_rates_of_those_they_correspond_to():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    own = nn.Parameter(torch.zeros(3))  # of a method, in no network
    groups = [{"params": [first.weight, own], "lr": 0.5}]
    recipe = SimpleNamespace(networks_in_training=lambda: [first, second])
    (group,) = with_twins(groups, recipe)
    assert group["lr"] == 0.5
    assert list(map(id, group["params"])) == list(map(id, (first.weight, own, second.weight)))
    alone = SimpleNamespace(networks_in_training=lambda: [first])
    assert with_twins(groups, alone) == groups
