import math

import pytest
import torch

from datamodules.datamodule import StreamDataModule
from datamodules.pk_order import BlockWalk, MakePKOrder
from datamodules.sources import Digits
from datamodules.views.image import Raw, Weak
from foundation.errors import UserError

LABELS = torch.randint(7, (90,), generator=torch.Generator().manual_seed(0))


def order(labels=LABELS, batch_size=12, per_class=4, seed=0, **settings):
    return MakePKOrder(per_class, **settings)({"label": labels}, batch_size, 100, seed, "labeled")


def batches(made, number, size=12):
    return made.take(0, number * size).view(number, size)


@pytest.mark.parametrize(
    ("size", "block"), [(10, 4), (7, 3), (8, 8), (5, 4), (9, 3), (10, 9), (13, 1)]
)
def test_a_walk_has_different_elements_in_a_block_and_equal_counts_in_a_round(size, block):
    walk = BlockWalk(size, block, "key")
    length = size // math.gcd(size, block)
    for first in (0, length):
        found = torch.stack([walk[n] for n in range(first, first + length)])
        assert all(len(row.unique()) == block for row in found)
        assert torch.bincount(found.flatten(), minlength=size).unique().tolist() == [
            block // math.gcd(size, block)
        ]
    assert not torch.equal(walk[0], walk[length]) or block == 1


def test_a_walk_uses_everything_within_a_pass():
    walk = BlockWalk(10, 4, "key")
    for first in range(0, 30, 5):
        assert len(torch.cat([walk[first + n] for n in range(3)]).unique()) == 10


def test_few_elements_repeat():
    found = BlockWalk(3, 8, "key")[5]
    assert sorted(torch.bincount(found).tolist()) == [2, 3, 3]


@pytest.mark.parametrize("classes", ["uniform", "proportional"])
def test_batches_have_p_classes_of_k_different_samples(classes):
    for row in batches(order(classes=classes), 40):
        found, counts = LABELS[row].unique(return_counts=True)
        assert (len(found), counts.tolist()) == (3, [4, 4, 4])
        assert len(row.unique()) == 12
        assert torch.equal(LABELS[row].view(3, 4)[:, 0], LABELS[row].view(3, 4)[:, 3]), (
            "class by class"
        )


def test_uniform_classes_come_equally_often_whatever_their_size():
    rows = batches(order(), 7 * 4)
    assert torch.bincount(LABELS[rows.flatten()]).unique().tolist() == [7 * 4 * 12 // 7]
    for first in range(0, 21, 7):
        assert len(LABELS[rows[first : first + 3].flatten()].unique()) == 7, (
            "all within ceil(C / P) batches"
        )


def test_samples_of_a_class_come_equally_often():
    labels = torch.arange(6).repeat_interleave(10)
    rows = batches(
        order(labels), 2 * 5
    )  # five rounds of ten samples in blocks of four: two uses each
    assert torch.bincount(rows.flatten(), minlength=60).unique().tolist() == [2]


def test_proportional_classes_follow_their_frequency():
    labels = torch.tensor([0] * 80 + [1] * 10 + [2] * 10 + [3] * 10)
    rows = batches(order(labels, 4, classes="proportional"), 600, 4)
    shares = torch.bincount(labels[rows.flatten()]).double() / (600 * 4)
    torch.testing.assert_close(
        shares, torch.tensor([80, 10, 10, 10], dtype=torch.float64) / 110, atol=0.04, rtol=0
    )


def test_any_part_can_be_had_without_the_parts_before():
    whole = order().take(0, 1200)
    for start, stop in ((0, 12), (600, 648), (5, 17), (1188, 1200), (30, 30)):
        assert torch.equal(order().take(start, stop), whole[start:stop])
    assert not torch.equal(order(seed=1).take(0, 1200), whole)


def test_missing_labels_come_in_no_batch():
    labels = LABELS.clone()
    labels[::4] = -1
    assert (labels[order(labels).take(0, 600)] >= 0).all()


def test_interleaved_parts_hold_every_class():
    row = order(interleaved=True).take(0, 12)
    for part in LABELS[row].view(4, 3):
        assert len(part.unique()) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 14},
            "data.batch_size=14: is no multiple of methods.pk.samples_per_class=4; expected e.g. "
            "12 or 16",
        ),
        (
            {"batch_size": 40},
            "needs 10 classes per batch .* has 7; expected at most data.batch_size=28",
        ),
        ({"task": "lable"}, "methods.pk.task=lable: there is no such task; did you mean 'label'?"),
    ],
    ids=["multiple", "classes", "task"],
)
def test_what_cannot_be_is_said_in_one_line(settings, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")) as refusal:
        order(**settings)
    assert "\n" not in str(refusal.value)


def digits(rank, world, batch_size=16):
    data = StreamDataModule(
        Digits(), batch_size=batch_size, views={"raw": Raw(), "weak": Weak(flip=False)}
    )
    data.request({"labeled"}, {"labeled": MakePKOrder(4)})
    data.place(rank, world, total=5)
    data.setup()
    return [batch["labeled"] for batch in data.train_dataloader()]


def test_ranks_share_the_batch_by_whole_classes():
    whole, parts = digits(0, 1), [digits(rank, 2) for rank in range(2)]
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert torch.equal(torch.cat([m["index"] for m in mine]), batch["index"])
        classes = [set(m["targets"]["label"].tolist()) for m in mine]
        assert [len(found) for found in classes] == [2, 2] and not classes[0] & classes[1]


def test_too_few_classes_are_found_when_the_data_is_read():
    data = StreamDataModule(Digits(), batch_size=64, views={"raw": Raw(), "weak": Weak(flip=False)})
    data.request({"labeled"}, {"labeled": MakePKOrder(4)})
    with pytest.raises(UserError, match=r"needs 16 classes per batch .* has 10"):
        data.setup()
