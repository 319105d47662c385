import copy

import pytest
import timm
import torch
from torch import nn

from recipes.step.batchnorm import BatchNorms
from recipes.step.forward import forward_inputs
from recipes.step.step import Embedded, Input, Output

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


class EvoNet(nn.Module):
    """Two layers with timm's EvoNorm2dB0, which uses statistics of the batch, but is no torch
    BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 4, 3), timm.layers.EvoNorm2dB0(4), nn.Conv2d(4, 3, 3)
        )

    def forward(self, embedded: Embedded) -> Output:
        features = self.layers(embedded.x).mean((2, 3))
        return Output(features, {"label": features})


def evo_batches():
    torch.manual_seed(0)
    return EvoNet(), 3 * torch.randn(4, 2, 8, 8), torch.randn(4, 2, 8, 8)


def test_frozen_leaves_the_statistics_of_timms_evo_norm():
    net, x, _ = evo_batches()
    norms, norm = BatchNorms(net), net.layers[1]
    assert norms.use_batch_statistics
    variance, before = norm.running_var, norm.running_var.clone()
    expected = copy.deepcopy(net)(Embedded(x)).features
    with norms.frozen():
        with norms.frozen():
            assert torch.equal(net(Embedded(x)).features, expected)
        net(Embedded(x))
    assert norm.running_var is variance and torch.equal(variance, before)
    net(Embedded(x))
    assert not torch.equal(variance, before)
    net.eval()
    assert not norms.use_batch_statistics


def test_inputs_share_a_forward_through_timms_evo_norm():
    net, x, y = evo_batches()
    together = net(Embedded(torch.cat([x, y]))).features
    assert not torch.allclose(net(Embedded(x)).features, together[:4], atol=1e-4)
    entries = {"x": Input("x", Embedded(x), grad=False), "y": Input("y", Embedded(y))}
    outputs = forward_inputs(entries, net, None, BatchNorms(net))
    assert torch.equal(outputs["x"].features, together[:4])
    assert torch.equal(outputs["y"].features, together[4:])
    before = net.layers[1].running_var.clone()
    forward_inputs(
        {"x": Input("x", Embedded(x), updates_bn_stats=False)}, net, None, BatchNorms(net)
    )
    assert torch.equal(net.layers[1].running_var, before)
