"""Schedules by step: values at marked points, warm-up, equal ratios between groups."""

import math

import pytest
import torch

from recipes.optimization.plateau import Plateau
from recipes.optimization.schedulers import (
    Constant,
    Cosine,
    FixMatchCosine,
    Linear,
    MultiStep,
    Polynomial,
    StepDecay,
    WarmupStableDecay,
    build_scheduler,
)


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (Constant(), (1.0, 1.0, 1.0)),
        (Linear(final=0.2), (1.0, 0.6, 0.2)),
        (Cosine(), (1.0, 0.5, 0.0)),
        (Cosine(final=0.1), (1.0, 0.55, 0.1)),
        (FixMatchCosine(), (1.0, 0.773010, 0.195090)),
    ],
)
def test_factors_at_start_middle_and_end(settings, values):
    assert [settings.factor(t, 1000) for t in (0, 500, 1000)] == pytest.approx(values, abs=1e-6)


def test_nothing_changes_past_the_end():
    assert Cosine(final=0.3).factor(5000, 1000) == pytest.approx(0.3)


@pytest.mark.parametrize("settings", [Constant(4), Linear(4), Cosine(4), FixMatchCosine(4)])
def test_warm_up_is_linear_and_meets_the_curve_at_one(settings):
    assert [settings.factor(t, 100) for t in range(5)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0], abs=1e-6
    )


@pytest.mark.parametrize("total", [40, 300, 1000])
def test_a_warm_up_may_be_a_share_of_the_run(total):
    share = [Cosine(warmup_steps=0.1).factor(t, total) for t in range(total)]
    assert share == [Cosine(warmup_steps=total // 10).factor(t, total) for t in range(total)]
    assert Cosine(warmup_steps=0.01).factor(0, 4) == 1.0  # at least one step


def test_decay_after_a_warm_up_spans_the_steps_that_are_left():
    assert Cosine(warmup_steps=20).factor(60, 100) == pytest.approx(0.5)
    assert FixMatchCosine(warmup_steps=20).factor(60, 100) == pytest.approx(
        math.cos(7 * math.pi / 32)
    )


def test_a_warm_up_as_long_as_the_run_stays_finite():
    assert [Cosine(warmup_steps=3).factor(t, 3) for t in range(3)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )


def test_every_group_keeps_its_share_of_the_rate():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}])
    scheduler = build_scheduler(optimizer, FixMatchCosine(), total_steps=4)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [big for big, _ in rates] == pytest.approx(
        [math.cos(7 * math.pi * t / 64) for t in range(5)]
    )
    assert all(small == pytest.approx(big / 10) for big, small in rates)


def test_resumed_schedule_continues_where_it_stopped():
    def make():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        return optimizer, build_scheduler(optimizer, Cosine(), total_steps=10)

    optimizer, scheduler = make()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    second, resumed = make()
    second.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    second.step()
    resumed.step()
    assert second.param_groups[0]["lr"] == pytest.approx((1 + math.cos(math.pi * 0.4)) / 2)


@pytest.mark.parametrize(
    ("settings", "peer", "arguments"),
    [
        (MultiStep(milestones=[12, 30]), "MultiStepLR", {"milestones": [12, 30]}),
        (
            MultiStep(milestones=[0.3, 0.75], gamma=0.5),
            "MultiStepLR",
            {"milestones": [12, 30], "gamma": 0.5},
        ),
        (StepDecay(every=9), "StepLR", {"step_size": 9}),
        (StepDecay(every=0.25, gamma=0.3), "StepLR", {"step_size": 10, "gamma": 0.3}),
        (Polynomial(power=0.9), "PolynomialLR", {"total_iters": 40, "power": 0.9}),
        (Polynomial(power=2.0), "PolynomialLR", {"total_iters": 40, "power": 2.0}),
    ],
)
def test_the_same_rates_as_torch(settings, peer, arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = getattr(torch.optim.lr_scheduler, peer)(optimizer, **arguments)
    for step in range(40):
        assert settings.factor(step, 40) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_warm_up_stable_decay():
    schedule = WarmupStableDecay(10, decay=0.2, final=0.1)
    assert [schedule.factor(t, 100) for t in (0, 9, 10, 80)] == pytest.approx([0.1, 1, 1, 1])
    assert schedule.factor(85, 100) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule.factor(100, 100) == pytest.approx(0.1)
    stable = [WarmupStableDecay(10, decay=50).factor(t, 1000) for t in range(950)]
    assert stable == [WarmupStableDecay(10, decay=50).factor(t, 5000) for t in range(950)]


@pytest.mark.parametrize(
    "settings", [Polynomial(4), MultiStep(4), StepDecay(4), WarmupStableDecay(4)]
)
def test_warm_up_of_every_schedule(settings):
    factors = [settings.factor(t, 1000) for t in range(5)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant,
        Linear,
        Cosine,
        FixMatchCosine,
        Polynomial,
        MultiStep,
        StepDecay,
        WarmupStableDecay,
        Plateau,
    ],
)
def test_a_scale_is_a_factor_of_the_whole_schedule(schedule):
    whole, tenth = schedule(warmup_steps=4), schedule(warmup_steps=4, scale=0.1)
    for step in range(40):
        assert tenth.factor(step, 40) == pytest.approx(0.1 * whole.factor(step, 40))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    assert build_scheduler(optimizer, schedule(scale=0.1), 40).get_last_lr() == pytest.approx(
        [0.3 * schedule().factor(0, 40)]
    )
