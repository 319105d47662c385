import copy

import pytest
import torch
from torch import nn

from recipes.step.batchnorm import BatchNorms

CASES = [
    (nn.BatchNorm1d, (8, 3)),
    (nn.BatchNorm1d, (8, 3, 5)),
    (nn.BatchNorm2d, (8, 3, 4, 4)),
    (nn.BatchNorm3d, (4, 3, 2, 2, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_frozen_normalises_with_the_batch_and_leaves_the_statistics(layer, shape):
    net = nn.Sequential(layer(3, momentum=0.3))
    x = 2 + torch.randn(shape, generator=torch.Generator().manual_seed(0))
    net(x)
    before, expected = copy.deepcopy(net.state_dict()), copy.deepcopy(net)(x)
    with BatchNorms(net).frozen():
        torch.testing.assert_close(net(x), expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    net(x)
    assert int(net[0].num_batches_tracked) == 2


def test_freezing_nests_and_ends_with_an_error():
    net = nn.Sequential(nn.BatchNorm1d(3))
    norms, x = BatchNorms(net), torch.randn(4, 3)
    with norms.frozen():
        with norms.frozen():
            net(x)
        net(x)
    assert int(net[0].num_batches_tracked) == 0
    with pytest.raises(RuntimeError, match="on the way"), norms.frozen():
        raise RuntimeError("on the way")
    net(x)
    assert int(net[0].num_batches_tracked) == 1


def test_layers_without_running_statistics_stay_without():
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    norms = BatchNorms(net)
    with norms.frozen():
        net(torch.randn(4, 3))
    assert net[0].track_running_stats is False
    net.eval()
    assert norms.use_batch_statistics


def test_whether_outputs_depend_on_company():
    assert not BatchNorms(nn.Linear(2, 2)).use_batch_statistics
    net = nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3))
    norms = BatchNorms(net)
    assert norms.use_batch_statistics
    net.eval()
    assert not norms.use_batch_statistics
