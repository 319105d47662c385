import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import rand_bbox

from methods.regularization.cutmix import CutMix, box_masks
from recipes.step import Embedded
from tests.methods.regularization.test_mixup import RECIPE, TARGETS, step_at
from tests.support.harness import train

PIXELS = torch.rand(6, 3, 9, 12, generator=torch.Generator().manual_seed(0))


def box(share: float, y: float, x: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left, right in plain Python, after the authors' description."""
    cut = math.sqrt(1 - share)
    high, wide = int(height * cut) // 2, int(width * cut) // 2
    row, column = int(y * height), int(x * width)
    return (
        max(row - high, 0),
        min(row + high, height),
        max(column - wide, 0),
        min(column + wide, width),
    )


def random_boxes(rows: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.rand(rows, generator=source), torch.rand(rows, 2, generator=source)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (9, 12), (7, 5)])
def test_boxes_equal_a_plain_reference(height, width):
    share, center = random_boxes()
    masks = box_masks(share, center, height, width)
    for i, mask in enumerate(masks[:, 0]):
        top, bottom, left, right = box(
            float(share[i]), float(center[i, 0]), float(center[i, 1]), height, width
        )
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(mask, expected)


def test_boxes_cover_on_average_what_timms_do():
    np.random.seed(0)
    share, center = random_boxes(4000)
    ours = box_masks(share, center, 32, 32).float().mean()
    areas = []
    for lam in share.tolist():
        top, bottom, left, right = rand_bbox((3, 32, 32), lam)
        areas.append((bottom - top) * (right - left) / 1024)
    assert float(ours) == pytest.approx(sum(areas) / len(areas), abs=0.015)


def cut(method: CutMix, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    method.key = "cutmix"
    step = step_at(number, Embedded(PIXELS), TARGETS)
    method.prepare(step, RECIPE)
    entry = step.inputs["labeled"]
    return entry.embedded.x, entry.targets["label"]


@pytest.mark.parametrize("per_sample", [False, True])
def test_targets_mix_by_the_exact_share_of_pixels(per_sample):
    """Every pixel comes whole from the sample or its partner, and the target says in which
    proportion."""
    dense = F.one_hot(TARGETS.clamp_min(0), 3) * (TARGETS >= 0)[:, None]
    pasted = 0
    for number in range(8):
        x, target = cut(CutMix(per_sample=per_sample), number)
        mine = (x == PIXELS).all(1)
        for i in range(6):
            share = float(mine[i].float().mean())
            if share == 1.0:
                torch.testing.assert_close(target[i], dense[i].float())
                continue
            pasted += 1
            source = [j for j in range(6) if torch.equal(x[i][:, ~mine[i]], PIXELS[j][:, ~mine[i]])]
            assert len(source) == 1
            torch.testing.assert_close(target[i], share * dense[i] + (1 - share) * dense[source[0]])
    assert pasted > 10


def test_one_box_a_batch_unless_one_a_sample():
    def boxes(method):
        found = set()
        x, _ = cut(method, 2)
        for mask in (x != PIXELS).any(1):
            if mask.any():
                found.add(tuple(mask.flatten().tolist()))
        return found

    assert len(boxes(CutMix())) == 1
    assert len(boxes(CutMix(per_sample=True))) > 1


def test_probability_zero_leaves_the_batch_alone_and_half_about_half_of_them():
    for number in range(5):
        assert torch.equal(cut(CutMix(probability=0.0), number)[0], PIXELS)
    changed = [
        not torch.equal(cut(CutMix(probability=0.5), number)[0], PIXELS) for number in range(60)
    ]
    always = [not torch.equal(cut(CutMix(), number)[0], PIXELS) for number in range(60)]
    assert 0.3 < sum(changed) / sum(always) < 0.7


def test_trains():
    result = train({"cutmix": CutMix()}, steps=3)
    assert all(math.isfinite(loss) for loss in result.losses)
    assert result.losses != train(steps=3).losses
