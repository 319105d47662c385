"""The cuts: counts are exact, samples are random but reproducible, and mistakes are named."""

import numpy as np
import pytest
import torch

from datamodules.label_counts import apportion, label_counts
from datamodules.splits import (
    SplitSettings,
    class_counts,
    flip_labels,
    imbalanced_counts,
    split_training,
    stable_order,
    take_per_class,
    take_per_class_legacy,
    validation_counts,
)
from foundation.errors import UserError
from foundation.randomness import generator

TEN = {"label": [str(c) for c in range(10)]}


@pytest.mark.parametrize("labels", [[2, -1, 2, 0, -1], [70_000, 3, 40_000, 3, -40_000], []])
def test_positions_by_label_keep_their_order(labels):
    """Also of labels that need more than 16 bits."""
    values = torch.tensor(labels, dtype=torch.int64)
    assert stable_order(values).equal(values.argsort(stable=True))


def balanced(per_class: int, classes: int = 10) -> torch.Tensor:
    return torch.arange(classes).repeat(per_class)


def cut(labels, **settings):
    return split_training({"label": labels}, TEN, SplitSettings(**settings))


# totals listed by Cui et al. (2019) and by the long-tail benchmarks that floor
@pytest.mark.parametrize(
    ("factor", "ten", "hundred"),
    [
        (10, 20431, 19573),
        (20, 17023, 15907),
        (50, 13996, 12608),
        (100, 12406, 10847),
        (200, 11203, 9502),
    ],
)
def test_exponential_profile_has_the_published_totals(factor, ten, hundred):
    assert imbalanced_counts(torch.full((10,), 5000), factor).sum() == ten
    assert imbalanced_counts(torch.full((100,), 500), factor).sum() == hundred


def test_exponential_profile_of_cifar10_at_100():
    expected = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert imbalanced_counts(torch.full((10,), 5000), 100.0).tolist() == expected


@pytest.mark.parametrize(("factor", "total"), [(10, 27500), (100, 25250)])
def test_step_profile_has_the_published_totals(factor, total):
    assert imbalanced_counts(torch.full((10,), 5000), factor, "step").sum() == total
    assert imbalanced_counts(torch.full((100,), 500), factor, "step").sum() == total


def test_smallest_classes_of_cifar100():
    tails = [int(imbalanced_counts(torch.full((100,), 500), f)[-1]) for f in (10, 20, 50, 100, 200)]
    assert tails == [50, 25, 10, 5, 2]


def test_profile_fits_into_an_unbalanced_set_with_the_largest_head():
    available = torch.tensor([40, 100, 9, 100])
    counts = imbalanced_counts(available, 8.0)
    # class 2 binds: n_max = floor(9 · 8^(2/3)) = 36
    assert counts.tolist() == [36, 18, 9, 4]
    assert (counts <= available).all()


def test_factor_below_one_is_refused():
    with pytest.raises(UserError, match=r"imbalance_factor=0\.01"):
        imbalanced_counts(torch.full((10,), 5000), 0.01)


def test_apportion_keeps_the_total_the_shares_and_one_each():
    weights = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
    counts = apportion(weights, 40)
    assert counts.sum() == 40 and counts.min() == 1
    assert (counts.diff() <= 0).all()
    # those above one are within one of their quota of what the singles leave over
    large = counts > 1
    quota = (40 - int((~large).sum())) * weights[large] / weights[large].sum()
    assert ((counts[large] - quota).abs() < 1).all()


def test_apportion_gives_exact_quotas_where_they_are_whole():
    assert apportion(torch.tensor([30, 20, 10]), 12).tolist() == [6, 4, 2]
    assert apportion(torch.full((10,), 7), 40).tolist() == [4] * 10


def test_apportion_hands_the_rest_to_the_largest_remainders():
    # quotas 4.5, 3.3, 2.2: the one left over goes to the first
    assert apportion(torch.tensor([45, 33, 22]), 10).tolist() == [5, 3, 2]


def test_take_per_class_takes_the_counts_without_repeats_and_at_random():
    labels = torch.randint(-1, 4, (500,), generator=generator("labels"))
    counts = torch.tensor([3, 0, 20, 7])
    rows = take_per_class(labels, counts, generator(1))
    assert class_counts(labels[rows], 4).tolist() == counts.tolist()
    assert len(rows.unique()) == len(rows) == 30 and rows.equal(rows.sort().values)
    assert rows.equal(take_per_class(labels, counts, generator(1)))
    assert not rows.equal(take_per_class(labels, counts, generator(2)))


def test_take_per_class_is_uniform_within_a_class():
    hits = torch.zeros(10)
    for seed in range(2000):
        hits[
            take_per_class(torch.zeros(10, dtype=torch.int64), torch.tensor([3]), generator(seed))
        ] += 1
    # 600 expected, standard deviation 20.5
    assert ((hits - 600).abs() < 5 * 20.5).all()


def test_legacy_subset_replays_the_global_generator():
    labels = torch.randint(0, 5, (300,), generator=generator("legacy"))
    counts = torch.tensor([9, 7, 5, 3, 1])
    state = np.random.get_state()
    try:
        np.random.seed(0)
        expected = []
        for label, count in enumerate(counts):
            places = np.where(np.array(labels) == label)[0]
            np.random.shuffle(places)
            expected.extend(places[:count].tolist())
    finally:
        np.random.set_state(state)
    assert take_per_class_legacy(labels, counts).tolist() == sorted(expected)


def test_validation_takes_its_share_at_least_one_never_the_only_sample():
    assert validation_counts(torch.tensor([100, 14, 4, 2, 1]), 0.1).tolist() == [10, 1, 1, 1, 0]
    assert validation_counts(torch.tensor([100, 1]), 0.0).tolist() == [0, 0]


def test_parts_are_disjoint_and_cover_the_training_data():
    labels = balanced(50)
    parts = cut(labels, val_fraction=0.2, labels_per_class=4)
    assert class_counts(labels[parts.val], 10).tolist() == [10] * 10
    assert torch.cat([parts.pool, parts.val]).sort().values.equal(torch.arange(500))
    assert class_counts(labels[parts.pool[parts.labeled]], 10).tolist() == [4] * 10
    assert parts.targets["label"].equal(labels[parts.pool[parts.labeled]])


def test_cuts_depend_on_the_seed_alone_and_each_on_its_own():
    labels = balanced(50)
    plain, noisy = cut(labels, labels_per_class=4), cut(labels, labels_per_class=4, label_noise=0.5)
    assert plain.pool.equal(noisy.pool) and plain.labeled.equal(noisy.labeled)
    assert not plain.targets["label"].equal(noisy.targets["label"])
    other = cut(labels, labels_per_class=4, seed=1)
    assert not plain.val.equal(other.val) and not plain.labeled.equal(other.labeled)


def test_long_tailed_cut_comes_before_validation_and_keeps_the_published_total():
    labels = balanced(5000)
    parts = cut(labels, imbalance_factor=100, val_fraction=0.1)
    kept = torch.cat([parts.pool, parts.val])
    assert class_counts(labels[kept], 10).tolist() == [
        5000,
        2997,
        1796,
        1077,
        645,
        387,
        232,
        139,
        83,
        50,
    ]
    whole = cut(labels, imbalance_factor=100, val_fraction=0.0)
    assert len(whole.pool) == 12406 and len(whole.val) == 0


def test_legacy_subset_reaches_the_pool():
    labels = torch.randint(0, 10, (3000,), generator=generator("pool"))
    parts = cut(labels, imbalance_factor=10, imbalance_subset="legacy", val_fraction=0.0, seed=5)
    counts = imbalanced_counts(class_counts(labels, 10), 10)
    assert parts.pool.equal(take_per_class_legacy(labels, counts))


def test_labels_follow_the_profile_of_a_long_tail():
    labels = balanced(5000)
    parts = cut(labels, imbalance_factor=100, labels_per_class=4, val_fraction=0.0)
    counts = class_counts(parts.targets["label"], 10)
    assert counts.sum() == 40 and counts.min() == 1 and counts[0] > 10


def test_more_labels_than_samples_names_the_class():
    with pytest.raises(UserError, match=r"labels_per_class=5: class '2' has 3 training samples"):
        label_counts(torch.tensor([9, 9, 3]), 5, False, ["0", "1", "2"])
    with pytest.raises(UserError, match="labels_per_class=100"):
        cut(balanced(50), imbalance_factor=10, labels_per_class=100)


def test_too_steep_a_tail_names_the_class():
    with pytest.raises(
        UserError, match="imbalance_factor=200 leaves no training sample of class '7'"
    ):
        cut(balanced(50), imbalance_factor=200)


def test_one_class_only_and_missing_classes_are_refused():
    with pytest.raises(UserError, match="only the class 'cat'"):
        split_training(
            {"label": torch.zeros(5, dtype=torch.int64)}, {"label": ["cat"]}, SplitSettings()
        )
    with pytest.raises(UserError, match="no training sample of class '3'"):
        labels = balanced(5)
        cut(labels[labels != 3])


def test_samples_without_a_label_stay_in_the_pool_and_are_never_labeled():
    labels = torch.cat([balanced(20), torch.full((50,), -1)])
    for settings in ({}, {"labels_per_class": 3}, {"imbalance_factor": 5}):
        parts = cut(labels, **settings)
        assert (labels[parts.pool] == -1).sum() == 50
        assert parts.targets["label"].min() >= 0 and labels[parts.val].min() >= 0


def test_label_noise_flips_its_share_to_other_classes_uniformly():
    labels = balanced(1000)
    noisy = flip_labels(labels, 0.4, 10, generator("noise"))
    wrong = noisy != labels
    assert wrong.sum() == 4000
    shift = class_counts((noisy - labels)[wrong] % 10, 10)[1:]
    # nine other classes, 444 each expected, standard deviation about 20
    assert ((shift - 4000 / 9).abs() < 5 * 20).all()


def test_label_noise_keeps_the_truth_aside_and_spares_other_parts():
    parts = cut(balanced(100), label_noise=0.3, val_fraction=0.1)
    wrong = parts.targets["label"] != parts.truth["label"]
    assert wrong.sum() == round(0.3 * len(parts.labeled))
    assert parts.truth["label"].equal(balanced(100)[parts.pool[parts.labeled]])


def test_label_noise_reaches_every_task_on_its_own():
    labels = balanced(100)
    targets = {"label": labels, "parity": labels % 2}
    parts = split_training(
        targets, TEN | {"parity": ["even", "odd"]}, SplitSettings(label_noise=0.5)
    )
    wrong = {task: parts.targets[task] != parts.truth[task] for task in targets}
    assert all(mask.sum() == round(0.5 * len(parts.labeled)) for mask in wrong.values())
    assert not wrong["label"].equal(wrong["parity"])
