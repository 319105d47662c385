"""The schedule of plateaus: torch's rule, groups that keep their rate, falls that a resume keeps."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from foundation.errors import UserError
from recipes.optimization.plateau import Plateau
from recipes.optimization.schedulers import CONSTANT, build_scheduler
from recipes.runs.start import ready, start
from recipes.setup.plateau import plateau_of

RUN = [
    "data=digits",
    "trainer.val_every=4",
    "trainer.log_every=2",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "optimizer.lr=1e-9",  # nothing is learned, so every validation is one without a better monitor
    "scheduler=plateau",
    "scheduler.patience=1",
    "scheduler.gamma=0.5",
]


def optimizer(*rates, **more):
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates]
    groups[-1] |= more
    return torch.optim.SGD(groups, lr=1.0)


def rates_of(made):
    return [group["lr"] for group in made.param_groups]


@pytest.mark.parametrize("minimize", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 0, "gamma": 0.5},
        {"patience": 1, "cooldown": 3, "gamma": 0.3},
        {"patience": 0, "threshold": 0.2, "gamma": 0.5, "final": 0.05},
    ],
)
def test_it_falls_as_torchs(settings, minimize):
    values = torch.rand(60, generator=torch.Generator().manual_seed(1)).add(0.5).tolist()
    values[7] = math.nan
    rule = Plateau(**settings)
    ours = optimizer(1.0, 0.1)
    scheduler = build_scheduler(ours, rule, 1000)
    theirs = optimizer(1.0, 0.1)
    reference = ReduceLROnPlateau(
        theirs,
        mode="min" if minimize else "max",
        factor=rule.gamma,
        patience=rule.patience,
        threshold=rule.threshold,
        cooldown=rule.cooldown,
        min_lr=[rule.final, 0.1 * rule.final],
        eps=0,
    )
    seen = set()
    for value in values:
        ours.step()
        scheduler.step()
        scheduler.validated(value, minimize)
        reference.step(value)
        assert rates_of(ours) == pytest.approx(rates_of(theirs), rel=1e-12)
        seen.add(ours.param_groups[0]["lr"])
    assert len(seen) > 2


def test_the_warm_up_continues_and_constant_groups_keep_their_rate():
    made = optimizer(1.0, 0.1, **{CONSTANT: True})
    scheduler = build_scheduler(made, Plateau(warmup_steps=4, patience=0, gamma=0.5), 100)
    scheduler.validated(1.0, True)
    assert scheduler.validated(1.0, True) and rates_of(made) == [0.125, 0.1]
    for _ in range(6):
        made.step()
        scheduler.step()
    assert rates_of(made) == [0.5, 0.1]


def test_its_state_continues():
    made, again = optimizer(1.0), optimizer(1.0)
    rule = Plateau(patience=1, gamma=0.5, cooldown=1)
    first, second = build_scheduler(made, rule, 100), build_scheduler(again, rule, 100)
    for _ in range(4):
        first.validated(1.0, True)
    second.load_state_dict(first.state_dict())
    falls = [[one.validated(1.0, True) for _ in range(6)] for one in (first, second)]
    assert falls[0] == falls[1] and any(falls[0]) and first.fallen == second.fallen


def learning_rates(folder):
    lines = (folder / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    return [(row["step"], row["train/lr"]) for row in rows if row["train/lr"]]


def test_a_resumed_run_falls_where_the_whole_one_does(tmp_path):
    whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
    start(ready([*RUN, "trainer.max_steps=24", f"run_dir={whole}"]))
    start(ready([*RUN, "trainer.max_steps=12", f"run_dir={half}"]))
    start(ready([*RUN, "trainer.max_steps=24", f"resume={half}", f"run_dir={rest}"]))
    assert learning_rates(rest) == learning_rates(whole)[6:]
    assert learning_rates(rest) == learning_rates(whole)[6:]
    rates = [float(rate) for _, rate in learning_rates(whole)]
    assert rates[0] == 1e-9 and rates[-1] <= 2.5e-10
    one, other = (torch.load(f / "checkpoints/last.ckpt") for f in (whole, rest))
    assert one["lr_schedulers"] == other["lr_schedulers"]
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name])


def test_without_validation_it_is_refused(tmp_path):
    with pytest.raises(UserError, match="scheduler=plateau: there is no validation part"):
        plateau_of(Plateau(), "val/accuracy", validates=False)
    with pytest.raises(UserError, match="scheduler=plateau: there is no validation part"):
        start(ready([*RUN, "data.val_fraction=0", f"run_dir={tmp_path / 'run'}"]))
