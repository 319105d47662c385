"""Mixup and CutMix in one run: one of them a batch, timm's rule, equal on ranks and after a
resume."""

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.mixing import has_turn
from methods.regularization import cutmix, mixup
from methods.regularization.cutmix import CutMix, box_masks
from methods.regularization.mixup import Mixup
from methods.semi_supervised.mixmatch import MixMatch
from recipes.step import Embedded
from tests.methods.regularization.test_mixup import step_at
from tests.support.harness import Setup, build, train


def both(**settings):
    methods = {"mixup": Mixup(), "cutmix": CutMix(**settings)}
    return methods, build(methods, Setup())


def owners(recipe, methods, steps, rank=0, world=1):
    found = []
    for number in range(steps):
        step = step_at(
            number, Embedded(torch.zeros(6, 3, 8, 8)), torch.zeros(6).long(), rank, world
        )
        found.append([key for key, m in methods.items() if has_turn(m, step, recipe)])
    return found


def test_one_mixer_a_batch_in_the_given_proportions():
    methods, recipe = both(turns=3.0)
    found = owners(recipe, methods, 2000)
    assert all(len(one) == 1 for one in found)
    # three standard deviations
    assert np.mean([one == ["cutmix"] for one in found]) == pytest.approx(0.75, abs=0.03)


def test_ranks_and_the_order_of_the_command_make_no_difference():
    methods, recipe = both()
    found = owners(recipe, methods, 50)
    assert owners(recipe, methods, 50, rank=1, world=2) == found
    swapped = dict(reversed(methods.items()))
    assert owners(build(swapped, Setup()), swapped, 50) == found


def test_alone_every_batch_is_its_own():
    for method in (Mixup(turns=0.1), CutMix(turns=0.1)):
        method.key = "one"
        recipe = build({"one": method}, Setup())
        assert owners(recipe, {"one": method}, 20) == [["one"]] * 20


@pytest.mark.parametrize("number", range(8))
def test_a_batch_is_what_timm_makes_of_the_same_numbers(number, monkeypatch):
    methods, recipe = both()
    source = torch.Generator().manual_seed(number)
    x, y = torch.rand(6, 3, 8, 8, generator=source), torch.tensor([0, 1, 2, 0, 1, 2])
    share, flipped = torch.full((6,), 0.6), torch.arange(5, -1, -1)
    for module in (mixup, cutmix):
        monkeypatch.setattr(module, "draw_mixing", lambda *_: (share, flipped))
    step = step_at(number, Embedded(x), y)
    for method in methods.values():
        method.prepare(step, recipe)
    is_cutmix = has_turn(methods["cutmix"], step, recipe)
    center = Randomness(0, number).shared("cutmix/box").uniform(2)
    box = box_masks(share[:1], center, 8, 8)[0, 0]
    rows, columns = (box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten())
    edges = (int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
    own = 1 - float(box.float().mean())
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", lambda *_, **__: (edges, own))
    reference = timm_mixup.Mixup(1.0, 1.0, label_smoothing=0.0, num_classes=3)
    monkeypatch.setattr(reference, "_params_per_batch", lambda: (0.6, is_cutmix))
    pixels, target = reference(x.clone(), y)
    torch.testing.assert_close(step.inputs["labeled"].embedded.x, pixels)
    torch.testing.assert_close(step.inputs["labeled"].targets["label"], target)


def test_both_train_and_others_still_collide():
    methods, recipe = both()
    assert recipe.composition.slots["mixer"] == "mixup and cutmix, by turns"
    assert len(train(methods, steps=4).losses) == 4
    with pytest.raises(UserError, match="both own the mixing of labeled inputs"):
        build({**methods, "mixmatch": MixMatch()}, Setup())
