"""Meta sampler: rates and draws, the batch of a step, what is refused."""

import re

import pytest
import torch

from foundation.errors import UserError
from methods.long_tail.meta_sampler import MetaSampler
from methods.long_tail.sample_rates import (
    SampleRates,
    class_shares,
    gumbel,
    members,
    present_classes,
    start,
)
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from tests.support.lab import trial
from tests.support.tiny_runs import METHODS, run_of

COUNTS = torch.tensor([100.0, 10.0, 1.0])


# -- rates -----------------------------------------------------------------------------------------
def test_worked_shares():
    s = torch.tensor([0.01, 0.1, 0.99])
    expected = torch.tensor([0.3344, 0.3344, 0.3311])
    torch.testing.assert_close(class_shares(torch.logit(s), COUNTS), expected, atol=5e-5, rtol=0)
    natural = class_shares(torch.full((3,), 0.7), COUNTS)
    torch.testing.assert_close(natural, COUNTS / COUNTS.sum())


def test_the_start():
    assert start(COUNTS, 0.0).tolist() == [0.0, 0.0, 0.0]
    # a = 1: x = (.01, .1, 1), over .01 + 1
    expected = torch.tensor([0.01, 0.1, 1.0]) / 1.01
    torch.testing.assert_close(torch.sigmoid(start(COUNTS, 1.0)), expected)
    without = start(torch.tensor([100.0, 0.0, 10.0]), 1.0)
    assert without[1] == 0 and without.isfinite().all()


def drawn_shares(instances, omega, draws=40_000):
    rates = SampleRates(COUNTS, instances=True)
    u = torch.rand(draws, rates.entries(instances), generator=torch.Generator().manual_seed(0))
    everything = torch.ones(3, dtype=torch.bool)
    classes, _ = rates.draw(omega, gumbel(u), 1.0, everything, instances)
    return torch.bincount(classes, minlength=3) / draws


@pytest.mark.parametrize("instances", [False, True])
def test_classes_are_drawn_as_often_as_the_rates_say(instances):
    equal = torch.zeros(3)
    torch.testing.assert_close(
        drawn_shares(instances, equal), COUNTS / COUNTS.sum(), atol=0.01, rtol=0
    )
    learned = torch.logit(torch.tensor([0.01, 0.1, 0.99]))
    torch.testing.assert_close(
        drawn_shares(instances, learned), class_shares(learned, COUNTS), atol=0.01, rtol=0
    )


def test_an_absent_class_is_not_drawn():
    rates = SampleRates(COUNTS)
    present = present_classes(torch.tensor([2, -1, 1, 1]), 3)
    assert present.tolist() == [False, True, True]
    omega = torch.zeros(3, requires_grad=True)
    noise = gumbel(torch.rand(200, 3, generator=torch.Generator().manual_seed(1)))
    classes, soft = rates.draw(omega, noise, 1.0, present)
    assert set(classes.tolist()) == {1, 2}
    (gradient,) = torch.autograd.grad(soft.sum(), omega)
    assert gradient.isfinite().all() and gradient[0] == 0


def test_each_sample_of_a_drawn_class_is_equally_likely():
    labels = torch.tensor([1, -1, 0, 1, 2, 1])
    u = torch.arange(3000) / 3000
    rows = members(labels, 3, torch.ones(3000, dtype=torch.int64), u)
    assert torch.bincount(rows, minlength=6).tolist() == [1000, 0, 0, 1000, 0, 1000]
    assert members(labels, 3, torch.tensor([0, 2]), torch.tensor([0.0, 1.0])).tolist() == [2, 4]


def test_a_worked_soft_weight():
    """Scores log(n s) + G of a row (1, 2, 0), T = 2: softmax of (.5, 1, 0); class 1 is drawn."""
    rates = SampleRates(torch.ones(3))
    omega = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([[1.0, 2.0, 0.0]], dtype=torch.float64)
    classes, soft = rates.draw(omega, noise, 2.0, torch.ones(3, dtype=torch.bool))
    p = torch.tensor([0.30719589, 0.50648039, 0.18632372], dtype=torch.float64)
    assert classes.tolist() == [1]
    assert float(soft.detach()) == pytest.approx(0.50648039, abs=1e-8)
    (gradient,) = torch.autograd.grad(soft.sum(), omega)
    # p_1 (δ - p) (1 - s) / T with s = 1/2
    expected = p[1] * (torch.tensor([0.0, 1.0, 0.0]) - p) * 0.25
    torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=0)


def test_adam_is_torchs():
    rates = SampleRates(COUNTS)
    theirs = torch.nn.Parameter(torch.zeros(3))
    adam = torch.optim.Adam([theirs], lr=0.01)
    source = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = torch.randn(3, generator=source)
        rates.descend(gradient, 0.01)
        theirs.grad = gradient
        adam.step()
    torch.testing.assert_close(rates.omega, theirs.detach())


# -- in a run --------------------------------------------------------------------------------------
def test_the_batch_is_what_the_rates_say_and_rare_classes_come_more_often():
    """The classifier with the balanced softmax on natural batches: ω moves from 0, and the run's
    labeled input has the classes that were drawn."""
    changes = {"methods.meta_sampler.lr": 0.1, "trainer.max_steps": 12, "data.imbalance_factor": 20}
    outcome = trial(run_of("image", "meta_sampler", **changes))
    rates = outcome.recipe.method_modules["meta_sampler"]
    assert rates.omega.abs().max() > 0.05
    assert float(rates.steps) == 12
    step = outcome.recipe.last_step
    labels = step.inputs["labeled"].targets["label"]
    assert step.inputs["labeled"].size == step.streams["labeled"].size
    assert not torch.equal(labels, step.streams["labeled"].targets["label"])
    assert all("train/meta_sampler/balanced_loss" in outcome.history[s] for s in range(1, 13))


def test_levels_and_the_literal_look_ahead_are_other_runs():
    states = []
    for changes in (
        {},
        {"methods.meta_sampler.level": "class"},
        {"methods.meta_sampler.inner": "sgd_plain"},
        {"methods.meta_sampler.init_pow": 1.0},
    ):
        outcome = trial(run_of("image", "meta_sampler", **changes))
        states.append(outcome.recipe.method_modules["meta_sampler"].omega)
    for i, one in enumerate(states):
        assert one.isfinite().all()
        assert not any(torch.equal(one, other) for other in states[:i])


@pytest.mark.parametrize(
    ("settings", "sizes", "words"),
    [
        ({}, (8, 2, 10, 100), "candidates=4: 16 candidates on a device may lack one of 10 classes; "
         "set it to 5 or more, or raise data.batch_size"),
        ({"level": "instance"}, (512, 1, 10, 10**6), "level=instance: a batch of 512 times 1000000 "
         "samples are 5.1e+08 weights; set level=class"),
    ],
)  # fmt: skip
def test_sizes_it_refuses(settings, sizes, words):
    method = MetaSampler(**settings)
    method.key = "meta_sampler"
    with pytest.raises(UserError, match=re.escape(words)):
        method.check_sizes(*sizes)


def test_what_it_needs_of_a_run():
    def composed(*keys, optimizer="momentum", **settings):
        methods = {key: METHODS[key].build() for key in keys}
        methods["meta_sampler"] = MetaSampler(**settings)
        families = dict.fromkeys(methods, "long_tail")
        views = frozenset({"raw", "weak", "strong"})
        return compose(methods, Environment("image", views, families=families, optimizer=optimizer))

    assert list(composed("crt").methods) == ["crt", "meta_sampler"]
    composed("crt", optimizer="adamw", inner="sgd_plain")
    with pytest.raises(
        UserError, match=r"works only beside another method: .*\[crt,meta_sampler\]"
    ):
        composed()
    with pytest.raises(
        UserError, match=r"optimizer is adamw: set optimizer=sgd, or methods.meta_s"
    ):
        composed("crt", optimizer="adamw")
    for other in ("balanced_softmax", "class_balanced_sampling", "mixup", "fixmatch", "focal_loss"):
        with pytest.raises(UserError, match="long_tail=meta_sampler"):
            composed("crt", other)
