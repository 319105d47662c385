"""Running statistics of BatchNorm reach back at most a share of the run."""

import pytest
import torch
from torch import nn

from recipes.networks.wide_resnet import WideResNet
from recipes.step.batchnorm import fit_statistics_to_run
from tests.support.command import read_metrics, train


def momenta(network: nn.Module) -> set[float]:
    return {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("steps", "momentum"),
    [(40, 0.1), (300, 20 / 300), (1000, 0.02), (20_000, 0.001), (10**6, 0.001)],
)
def test_a_slow_momentum_is_raised_to_a_share_of_the_run(steps, momentum):
    network = WideResNet(groups=2, blocks=1)
    fit_statistics_to_run(network, steps)
    assert momenta(network) == {pytest.approx(momentum)}


def test_a_quick_one_an_evaluation_and_a_cumulative_mean_stay():
    quick = nn.BatchNorm2d(2, momentum=0.3)
    slow = nn.BatchNorm2d(2, momentum=0.001)
    mean = nn.BatchNorm2d(2, momentum=None)
    fit_statistics_to_run(nn.Sequential(quick, slow, mean), 0)
    assert slow.momentum == 0.001
    fit_statistics_to_run(nn.Sequential(quick, slow, mean), 100)
    assert (quick.momentum, slow.momentum, mean.momentum) == (0.3, 0.1, None)


@pytest.mark.parametrize("steps", [40, 300, 1000])
def test_at_the_end_nothing_is_left_of_the_start(steps):
    layer = nn.BatchNorm2d(1, momentum=0.001)
    fit_statistics_to_run(layer, steps)
    assert (1 - layer.momentum) ** steps < 0.02


OPTIONS = "+network.options={blocks:1,width:1"


def test_a_short_run_of_the_wide_network_is_evaluated_with_statistics_of_its_own(tmp_path):
    """With the authors' momentum, which an option keeps, its evaluation would be near chance."""
    size = ["network.name=wrn_28_2", "trainer.max_steps=40", "trainer.val_every=40"]
    train(tmp_path / "run", *size, OPTIONS + "}")
    assert read_metrics(tmp_path / "run")[-1]["test/accuracy"] > 0.5
    train(tmp_path / "slow", *size, OPTIONS + ",bn_momentum:0.001}")
    assert read_metrics(tmp_path / "slow")[-1]["test/accuracy"] < 0.3
