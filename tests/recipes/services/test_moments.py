"""BatchNorm moments of an averaged network's own: against arithmetic, and where they go."""

import copy

import pytest
import torch
from torch import nn

from foundation.randomness import Randomness
from methods.averaging.ema import EMA
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.mean_teacher import MeanTeacher
from recipes.contract import TeacherRequest
from recipes.services.moments import Moments
from recipes.services.teacher import Teacher
from recipes.step import Embedded, Stream
from tests.support.harness import Setup, build, fit, noisy_view

NORM = "body.1"


def pictures(seed: int, size: int = 6) -> torch.Tensor:
    return torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def reference(setup: Setup, batches: int = 3):
    """Training batches as a data module gives them."""
    data, targets = setup.samples("labeled", 6 * batches)
    return lambda: [
        {
            "labeled": {
                "data": data[rows],
                "targets": {t: v[rows] for t, v in targets.items()},
                "index": rows,
            }
        }
        for rows in torch.arange(6 * batches).chunk(batches)
    ]


def trained(methods, setup, batches=3):
    recipe = build(methods, setup)
    recipe.reported.reference_batches = reference(setup, batches)
    return fit(recipe, setup).recipe


def test_estimate_against_float64_and_torchs_update_bn():
    network = Setup(norm=True).network().train()
    moments = Moments(network)
    batches = [pictures(seed) for seed in range(3)]
    moments.estimate(network, map(Embedded, batches))
    before = [network.body[0](x - 0.5).double() for x in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in before]).mean(0)
    variance = torch.stack([x.var((0, 2, 3), unbiased=True) for x in before]).mean(0)
    torch.testing.assert_close(moments.mean_0.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(moments.variance_0.double(), variance, atol=1e-6, rtol=1e-5)
    twin = copy.deepcopy(network)
    torch.optim.swa_utils.update_bn([x - 0.5 for x in batches], twin.body)
    torch.testing.assert_close(moments.mean_0, twin.body[1].running_mean)
    torch.testing.assert_close(moments.variance_0, twin.body[1].running_var)


def test_an_estimate_leaves_modes_statistics_and_random_numbers_alone():
    network = Setup(norm=True, dropout=0.5).network().train()
    network.body[3].eval()
    before, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    state, momentum = torch.get_rng_state(), network.body[1].momentum
    moments = Moments(network)
    moments.estimate(network, map(Embedded, [pictures(0)]))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [m.training for m in network.modules()] == modes and network.body[1].momentum == momentum
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_layers_keep_what_they_have():
    network = Setup(norm=True).network().train()
    network.body[1].eval()
    assert Moments(network).layers == []
    assert Teacher(network, TeacherRequest(0.9, moments="estimated")).moments.layers == []


@pytest.mark.parametrize("method", [EMA, MeanTeacher])
def test_evaluation_uses_them_and_training_does_not_see_them(method):
    setup, key = Setup(norm=True, steps=4), method.__name__.lower()
    recipe, without = (
        trained({key: method()}, setup),
        fit(build({key: method()}, setup), setup).recipe,
    )
    with recipe.eval().reporting() as network, torch.no_grad():
        own = network(Embedded(pictures(0))).logits["label"]
        used = network.body[1].running_mean.clone()
    assert torch.equal(used, recipe.teacher.moments.mean_0)
    assert not torch.equal(network.body[1].running_mean, used), "outside they are not in place"
    torch.testing.assert_close(recipe.predict_logits(pictures(0))["label"], own)
    raw = recipe.predict_logits(pictures(0), raw=True)["label"]
    torch.testing.assert_close(raw, recipe.network(Embedded(pictures(0))).logits["label"])
    for name, value in without.state_dict().items():
        if ".moments." not in name:
            assert torch.equal(recipe.state_dict()[name], value), name


def test_they_are_those_of_the_weights_and_the_checkpoint_has_them():
    """Equal to an estimate by hand on the final averaged weights, however often a run evaluated
    before."""
    recipe = trained({"ema": EMA()}, Setup(norm=True, steps=4))
    recipe.estimate_moments()
    twin = copy.deepcopy(recipe.teacher.network).train()
    moments = Moments(twin)
    inputs = [
        recipe.reported.reference_inputs(twin, batch, i)
        for i, batch in enumerate(recipe.reported.reference_batches())
    ]
    moments.estimate(twin, inputs)
    state = recipe.state_dict()
    assert torch.equal(state["teacher.moments.mean_0"], moments.mean_0)
    assert torch.equal(state["teacher.moments.variance_0"], moments.variance_0)
    assert int(state["teacher.moments.batches_0"]) == 3


def test_the_inputs_are_those_of_a_training_step():
    """Labeled samples, weak and strong views of the unlabeled ones, in one batch; the same at every
    evaluation."""
    setup = Setup(norm=True)
    recipe = build({"fixmatch": FixMatch(), "ema": EMA()}, setup)
    batch = setup.batches({"labeled", "unlabeled"})[0]
    position = batch.pop("position")
    found = recipe.reported.reference_inputs(recipe.network, batch, position).x
    assert len(found) == setup.labeled + 2 * setup.unlabeled
    randomness = Randomness(setup.seed, position)
    views = [("labeled", "weak"), ("unlabeled", "weak"), ("unlabeled", "strong")]
    expected = [noisy_view(Stream(name, **batch[name]), view, randomness) for name, view in views]
    assert torch.equal(found, torch.cat(expected))
    assert torch.equal(found, recipe.reported.reference_inputs(recipe.network, batch, position).x)


def test_kept_and_runs_without_estimates_use_the_buffers():
    kept = trained({"ema": EMA(moments="kept")}, Setup(norm=True, steps=3))
    assert kept.teacher.moments is None
    assert not any("moments" in name for name in kept.state_dict())
    older = build({"ema": EMA()}, Setup(norm=True, steps=3))
    state = {name: value for name, value in older.state_dict().items() if ".moments." not in name}
    older.load_state_dict(state)
    assert not older.teacher.moments.known
    with older.eval().reporting() as network:
        assert torch.equal(
            network.body[1].running_mean, state[f"teacher.network.{NORM}.running_mean"]
        )


def test_part_of_them_is_no_state():
    recipe = trained({"ema": EMA()}, Setup(norm=True, steps=3))
    state = recipe.state_dict()
    del state["teacher.moments.mean_0"]
    with pytest.raises(RuntimeError, match="mean_0"):
        recipe.load_state_dict(state)


def test_settled_moments_are_the_networks():
    recipe = trained({"ema": EMA()}, Setup(norm=True, steps=4)).eval()
    expected = recipe.predict_logits(pictures(1))["label"]
    recipe.teacher.moments.settle()
    torch.testing.assert_close(
        recipe.teacher.network(Embedded(pictures(1))).logits["label"], expected
    )


def test_networks_without_batch_normalisation_have_none():
    recipe = build({"ema": EMA()}, Setup(norm=False))
    recipe.reported.reference_batches = None  # would fail if it were asked
    assert recipe.teacher.moments.layers == [] and recipe.reported.moments() is None
    assert not any("moments" in name for name in recipe.state_dict())
    assert isinstance(recipe.network, nn.Module)
