"""The samplers of the family as methods: what they make of labels, and what they cannot be combined with."""

import pytest
import torch
from scipy.stats import chisquare

from datamodules.class_orders import power_shares, progressive_shares
from datamodules.datamodule import StreamDataModule
from datamodules.sources import Digits
from datamodules.views.image import Raw, Weak
from foundation.errors import UserError
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.class_balanced_loss import ClassBalancedLoss
from methods.long_tail.class_balanced_sampling import ClassBalancedSampling
from methods.long_tail.focal_loss import FocalLoss
from methods.long_tail.progressively_balanced_sampling import ProgressivelyBalancedSampling
from methods.long_tail.random_over_sampling import RandomOverSampling
from methods.long_tail.random_under_sampling import RandomUnderSampling
from methods.long_tail.square_root_sampling import SquareRootSampling
from recipes.contract.composition import compose
from recipes.contract.environment import Environment

COUNTS = torch.tensor([100, 10, 1])
LABELS = torch.arange(3).repeat_interleave(COUNTS)[
    torch.randperm(111, generator=torch.Generator().manual_seed(0))
]
ENVIRONMENT = Environment("image", frozenset({"raw", "weak"}))
SAMPLERS = [
    RandomOverSampling,
    RandomUnderSampling,
    ClassBalancedSampling,
    SquareRootSampling,
    ProgressivelyBalancedSampling,
]


def taken(method, count: int, total: int = 100_000) -> torch.Tensor:
    return method.order(LABELS, total, 0, "labeled").take(0, count)


def test_over_sampling_brings_every_class_to_the_largest():
    found = taken(RandomOverSampling(), 3 * 300)
    for one in found.view(3, 300):
        assert torch.bincount(LABELS[one]).tolist() == [100, 100, 100]
        assert torch.bincount(one, minlength=111)[LABELS == 1].tolist() == [10] * 10
        assert len(one.unique()) == 111


def test_over_sampling_draws_what_is_left_over_anew():
    labels = torch.tensor([0] * 7 + [1] * 5)
    found = RandomOverSampling().order(labels, 0, 0, "labeled").take(0, 14 * 50).view(50, 14)
    often = torch.stack([torch.bincount(one, minlength=12)[7:] for one in found])
    assert set(often.flatten().tolist()) == {1, 2} and (often.sum(1) == 7).all()
    assert len(often.unique(dim=0)) > 5


@pytest.mark.parametrize(
    ("cap", "expected"), [(None, [1, 1, 1]), (4, [4, 4, 1]), (50, [50, 10, 1])]
)
def test_under_sampling_cuts_every_class(cap, expected):
    length = sum(expected)
    found = taken(RandomUnderSampling(cap), 2000 * length).view(2000, length)
    assert all(
        torch.bincount(LABELS[one]).tolist() == expected and len(one.unique()) == length
        for one in found[:20]
    )
    assert len(found.unique()) == 111, "no sample is thrown away for good"
    kept = taken(RandomUnderSampling(cap, redraw=False), 40 * length).view(40, length)
    assert len(kept.unique()) == length and not kept[0].equal(kept[1])


@pytest.mark.parametrize("realisation", ["cycle", "draws"])
@pytest.mark.parametrize(("method", "q"), [(ClassBalancedSampling, 0.0), (SquareRootSampling, 0.5)])
def test_frequencies(method, q, realisation):
    found = taken(method(realisation), 30_000)
    shares = power_shares(COUNTS, q)
    if (q, realisation) == (0.5, "cycle"):
        shares = torch.tensor([78.0, 25, 8]).double() / 111  # whole numbers of 111
    assert chisquare(torch.bincount(LABELS[found]), 30_000 * shares).pvalue > 1e-3
    assert (
        chisquare(torch.bincount(found, minlength=111), 30_000 * (shares / COUNTS)[LABELS]).pvalue
        > 1e-3
    )


@pytest.mark.parametrize(("ramp", "last"), [("t_over_last", 1.0), ("t_over_T", 0.9)])
def test_progressive_sampling_goes_from_the_data_to_balance(ramp, last):
    total = 10 * 3000
    found = LABELS[taken(ProgressivelyBalancedSampling(10, ramp), total, total)].view(10, 3000)
    for t, part in enumerate(found):
        expected = progressive_shares(COUNTS, last * t / 9) * 3000
        # passes of 111 do not end where a tenth of the run does: at most one of them is of the part
        # before
        assert (torch.bincount(part, minlength=3) - expected).abs().max() < 40
    assert (
        abs(int((found[5] == 2).sum()) / 3000 - (0.1892 if ramp == "t_over_last" else 0.1712))
        < 0.01
    )


def test_progressive_parts_are_exact_where_they_are_whole_passes():
    order = ProgressivelyBalancedSampling(10).order(LABELS, 1110, 0, "labeled")
    parts = LABELS[order.take(0, 1110)].view(10, 111)
    assert torch.bincount(parts[0]).tolist() == [100, 10, 1]
    assert torch.bincount(parts[9]).tolist() == [37, 37, 37]
    average = torch.zeros(3)
    for seed in range(200):
        part = (
            ProgressivelyBalancedSampling(10)
            .order(LABELS, 1110, seed, "labeled")
            .take(5 * 111, 6 * 111)
        )
        average += torch.bincount(LABELS[part], minlength=3) / 200
    torch.testing.assert_close(
        average / 111, torch.tensor([0.5856, 0.2252, 0.1892]), atol=1e-3, rtol=0
    )


def test_a_short_run_is_ramped_as_well():
    order = ProgressivelyBalancedSampling().order(LABELS, 40, 0, "labeled")
    assert order.length == 4 and (LABELS[order.take(0, 4)] == 0).sum() >= 3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("tasks", [["label"], ["label", "parity"]])
def test_in_the_datamodule_the_labeled_stream_alone_is_resampled(sampler, tasks):
    def read(methods) -> StreamDataModule:
        data = StreamDataModule(
            Digits(tasks),
            batch_size=20,
            unlabeled_ratio=1,
            imbalance_factor=20,
            views={"raw": Raw(), "weak": Weak()},
        )
        data.request({"labeled", "unlabeled"}, compose(methods, ENVIRONMENT).orders)
        data.place(rank=0, world=1, total=60)
        data.setup()
        return data

    plain, ours = read({}), read({"sampler": sampler()})
    before, after = (list(data.train_dataloader()) for data in (plain, ours))
    counts = [
        torch.bincount(torch.cat([b["labeled"]["targets"]["label"] for b in run]), minlength=10)
        for run in (before, after)
    ]
    assert counts[0][0] > 15 * counts[0][9] and counts[1][0] < 7 * counts[1][9]
    assert all(
        a["unlabeled"]["index"].equal(b["unlabeled"]["index"])
        for a, b in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_prior_is_corrected_once(sampler):
    for other in (BalancedSoftmax(), ClassBalancedLoss()):
        with pytest.raises(UserError, match="both own the correction of the class prior"):
            compose({"sampler": sampler(), "other": other}, ENVIRONMENT)
    with pytest.raises(UserError, match="both own the order in which labeled samples come"):
        compose({"sampler": sampler(), "other": ClassBalancedSampling()}, ENVIRONMENT)
    compose({"sampler": sampler(), "other": FocalLoss()}, ENVIRONMENT)


def test_mistakes_are_reported():
    with pytest.raises(
        UserError, match=r"task: the data has no task 'lable'; did you mean 'label'"
    ):
        RandomOverSampling(task="lable")._make({"label": LABELS}, 4, 10, 0, "labeled")
    with pytest.raises(
        UserError, match="samples_per_class=4: independent draws have no consecutive"
    ):
        ClassBalancedSampling("draws", 4)
