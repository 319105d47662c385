"""Running statistics of BatchNorm reach back at most a share of the run."""

import pytest
from torch import nn

from recipes.config.resolve import resolve_command
from recipes.networks.wide_resnet import WideResNet
from recipes.runs.run import set_up
from recipes.setup.assemble import assemble
from recipes.setup.spec import RunSpec
from recipes.step.batchnorm import fit_statistics_to_run
from tests.support.command import read_metrics, roux, train


def momenta(network: nn.Module) -> set[float]:
    return {m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("steps", "momentum"),
    [(40, 0.1), (300, 1 / 15), (1000, 0.02), (20_000, 0.001), (10**6, 0.001)],
)
def test_a_slow_momentum_is_raised_to_a_share_of_the_run(steps, momentum):
    network = WideResNet(groups=2, blocks=1)
    fit_statistics_to_run(network, steps)
    assert momenta(network) == {momentum}


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


def test_a_short_run_of_the_wide_network_is_evaluated_with_statistics_of_its_own(tmp_path):
    """With the authors' momentum, 0.001, its evaluation would be near chance."""
    size = ["network.name=wrn_28_2", "+network.options={blocks:1,width:1}", "data.batch_size=16"]
    train(tmp_path / "run", *size, "trainer.max_steps=40", "trainer.val_every=40")
    assert read_metrics(tmp_path / "run")[-1]["test/accuracy"] > 0.4


@pytest.mark.parametrize(("options", "momentum"), [([], 0.1), (["bn_momentum=0.001"], 0.001)])
def test_a_momentum_that_is_set_stays(options, momentum):
    chosen = [f"+network.options.{text}" for text in options]
    size = ["network.name=wrn_28_2", "trainer.max_steps=100", "run_dir=unused"]
    recipe = set_up(assemble(RunSpec(resolve_command([*size, *chosen]).config)))
    assert momenta(recipe.network) == {momentum}


def test_the_plan_says_it():
    name = ["network.name=wrn_28_2", "trainer.max_steps=200", "dry_run=true"]
    said = "BatchNorm: momentum 0.001 raised to 0.1 for a run of 200 steps"
    assert said in roux(*name).out
    assert "BatchNorm: momentum" not in roux(*name, "+network.options.bn_momentum=0.001").out
    assert "BatchNorm: momentum" not in roux("network.name=digits_cnn", "dry_run=true").out
