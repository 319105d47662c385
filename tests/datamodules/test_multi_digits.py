import hashlib
from pathlib import Path

import pytest
import torch

from datamodules.source import ArraySource
from datamodules.sources.multi_digits import KEPT, MultiDigits, composed
from foundation.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def pictures(count: int, value: int = 200) -> ArraySource:
    """Picture i is of one grey value all over, and of class i mod 10."""
    pixels = (
        torch.full((count, 1, 28, 28), value, dtype=torch.uint8)
        - torch.arange(count).view(-1, 1, 1, 1) % 100
    )
    return ArraySource(
        pixels.to(torch.uint8), {"label": torch.arange(count) % 10}, {"label": list("0123456789")}
    )


def test_nearest_rows_of_the_authors():
    assert KEPT[:14] == [0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 16, 17]
    assert KEPT[14:] == [18, 19, 21, 22, 23, 25, 26, 27, 28, 30, 31, 32, 34, 35]


def test_sener_lays_two_pictures_over_each_other():
    first, second = pictures(50), pictures(50, value=90)
    pixels, left, right = composed(first, second, "sener", "train", alike=False)
    assert pixels.shape == (50, 1, 28, 28) and torch.equal(left, first.targets["label"])
    for i in range(50):
        own = int(first.pixels[i, 0, 0, 0])
        (partner,) = {int(v) for v in pixels[i].unique()} - {0, own} or {own}
        assert partner % 10 == (90 - int(right[i])) % 10, "the right label is the right picture's"
        canvas = torch.zeros(36, 36, dtype=torch.uint8)
        canvas[6:34, 6:34] = partner
        canvas[:28, :28] = torch.maximum(canvas[:28, :28], torch.tensor(own, dtype=torch.uint8))
        assert torch.equal(pixels[i, 0], canvas[KEPT][:, KEPT])


def test_pareto_moves_both_and_lets_no_two_of_a_class_meet():
    base = pictures(400)
    pixels, left, right = composed(base, base, "pareto", "train", alike=True)
    assert pixels.shape == (800, 1, 36, 36)
    assert torch.equal(left, base.targets["label"].repeat_interleave(2))
    assert (left != right).all() and set(right.tolist()) == set(range(10))
    rows, columns = (pixels[:, 0] > 0).any(2), (pixels[:, 0] > 0).any(1)
    for lines in (rows, columns):
        first, last = lines.float().argmax(1), 36 - lines.flip(1).float().argmax(1)
        assert set(first.tolist()) == {0, 1, 2, 3, 4} and set(last.tolist()) == {32, 33, 34, 35, 36}


def test_two_sets_may_share_a_class_number():
    _, left, right = composed(pictures(400), pictures(400), "pareto", "test", alike=False)
    assert (left == right).any()


def test_what_it_says_before_reading_and_what_it_refuses():
    assert (
        MultiDigits().info().shape == (1, 28, 28)
        and MultiDigits(form="pareto").info().train_size == 120000
    )
    assert MultiDigits(tasks=("right",)).info().tasks == {"right": 10}
    with pytest.raises(UserError, match=r"no task 'rigth'; did you mean 'right'"):
        MultiDigits(tasks=("rigth",))
    with pytest.raises(UserError, match=r"name each task once"):
        MultiDigits(tasks=("left", "left"))


@pytest.mark.skipif(
    not (SHARED / "MNIST").is_dir(), reason="needs MNIST and FashionMNIST beside the repository"
)
def test_the_real_set_is_the_same_everywhere():
    splits = MultiDigits("mnist", "fashion_mnist", "pareto").load(SHARED)
    assert len(splits.train) == 120000 and len(splits.test) == 20000
    assert splits.test.classes["right"][1] == "trouser"
    digest = hashlib.sha256(splits.test.pixels.numpy().tobytes()).hexdigest()[:16]
    assert digest == FROZEN


FROZEN = "1a351b0bc50c5aeb"
