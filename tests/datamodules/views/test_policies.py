"""AutoAugment and TrivialAugment beside torchvision: their tables, what is drawn of them, and the
pictures."""

import math

import pytest
import torch
from torchvision.transforms import autoaugment as reference

from benchmarks.made import pictures
from benchmarks.peers.view_peers import from_pil, published_name, to_pil, torchvision_operation
from datamodules.views.image import AutoAugment, TrivialAugment
from datamodules.views.image.operations import ENHANCE, GEOMETRIC, OPERATIONS
from datamodules.views.image.policies import IMAGENET, INVERT
from foundation.randomness import Randomness

CPU = torch.device("cpu")
SIDE = 64
PUBLISHED = {published_name(name): name for name in OPERATIONS}


def keyed(rows):
    return lambda purpose: Randomness(0, 0).draw(purpose, rows)


def ours_of(name, magnitude):
    """A magnitude of torchvision's in our units, rounded up where it is a threshold."""
    if name in ENHANCE:
        return 1 + magnitude
    if name.startswith("translate"):
        return math.trunc(round(magnitude, 4)) / SIDE  # torchvision's float32 makes 15 of 16
    return math.ceil(magnitude - 1e-4) if name == "solarize" else magnitude


def expected_values(space):
    """{operation: the values it can have} of a table of torchvision's."""
    expected = {}
    for published, (magnitudes, signs) in space.items():
        if published not in PUBLISHED:
            continue
        name = PUBLISHED[published]
        values = {ours_of(name, m) for m in magnitudes.flatten().tolist()}
        if signs:
            values |= {ours_of(name, -m) for m in magnitudes.flatten().tolist()}
        expected[name] = sorted(values)
    return expected


def test_trivial_augment_draws_every_value_of_torchvisions_table():
    stage = TrivialAugment()
    rows = 40_000
    codes, values = stage.draw(keyed(rows), (3, SIDE, SIDE), CPU)
    share = rows / len(OPERATIONS)
    assert (codes.flatten().bincount() - share).abs().max() < 6 * math.sqrt(share)
    expected = expected_values(reference.TrivialAugmentWide()._augmentation_space(31))
    assert set(expected) == set(OPERATIONS)
    for code, name in enumerate(OPERATIONS):
        if name in ("identity", "autocontrast", "equalize"):
            continue
        drawn = values[codes == code]
        assert drawn.unique().tolist() == pytest.approx(expected[name], abs=1e-5), name
        if name in GEOMETRIC or name in ENHANCE:
            middle = 1.0 if name in ENHANCE else 0.0
            assert (drawn > middle).float().mean().item() == pytest.approx(0.5, abs=0.06), name


def test_the_policy_is_torchvisions():
    theirs = reference.AutoAugment().policies
    named = PUBLISHED | {"Invert": INVERT}
    found = [tuple((named[n], p, m or 0) for n, p, m in pair) for pair in theirs]
    assert tuple(found) == IMAGENET


def test_auto_augment_draws_torchvisions_values():
    space = reference.AutoAugment()._augmentation_space(10, (SIDE, SIDE))
    codes, chances, values = AutoAugment().tables()
    for row, pair in enumerate(IMAGENET):
        for place, (name, chance, magnitude) in enumerate(pair):
            assert chances[row, place] == pytest.approx(chance)
            if name in ("autocontrast", "equalize"):
                continue
            if name == INVERT:
                assert OPERATIONS[codes[row, place]] == "solarize"
                assert values[row, place].tolist() == [0, 0]
                continue
            assert OPERATIONS[codes[row, place]] == name
            level = space[published_name(name)][0][magnitude].item()
            assert values[row, place, 0].item() == pytest.approx(ours_of(name, level), abs=1e-5)
            negative = -level if name in GEOMETRIC or name in ENHANCE else level
            assert values[row, place, 1].item() == pytest.approx(ours_of(name, negative), abs=1e-5)


def test_pairs_are_drawn_equally_and_applied_with_their_probability():
    rows = 50_000
    codes, values = AutoAugment().draw(keyed(rows), (3, SIDE, SIDE), CPU)
    first, second = IMAGENET[14]  # the only ones with contrast, and its repetition
    contrast = (codes[:, 1] == OPERATIONS.index("contrast")).float().mean().item()
    assert second[1] == 1.0 and contrast == pytest.approx(2 / 25, abs=0.01)
    kept = codes[codes[:, 1] == OPERATIONS.index("contrast"), 0]
    assert (kept > 0).float().mean().item() == pytest.approx(first[1], abs=0.05)
    enhanced = values[codes == OPERATIONS.index("contrast")]
    assert (enhanced > 1).float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("stage", [TrivialAugment(), AutoAugment()])
def test_pictures_are_those_of_pillow(stage):
    """One operation after the other, except that turns without another one between are one
    resampling."""
    before = pictures(40, SIDE)
    codes, values = stage.draw(keyed(40), (3, SIDE, SIDE), CPU)
    found = stage.apply(before.clone(), codes, values)
    equal = []
    for row, picture in enumerate(before):
        shown = to_pil(picture)
        for code, value in zip(codes[row].tolist(), values[row].tolist(), strict=True):
            name = OPERATIONS[code]
            if name != "identity":
                shown = torchvision_operation(shown, name, value)
        off = (from_pil(shown).int() - found[row].int()).abs()
        equal.append((off <= 1).float().mean().item())
    assert min(equal) > 0.98 and sum(equal) / len(equal) > 0.999
