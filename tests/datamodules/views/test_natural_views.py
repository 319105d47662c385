"""Views of natural pictures beside torchvision: the arithmetic in float64 for the numbers that were
drawn, and the numbers themselves."""

import math

import pytest
import torch
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from benchmarks.made import pictures
from datamodules.views.image import (
    AutoAugment,
    ColorJitter,
    Erasing,
    Middle,
    Natural,
    RandAugment,
    ResizedCrop,
    Strong,
    ThreeAugment,
    TrivialAugment,
    Weak,
)
from datamodules.views.image.boxes import NUMBERS, crop_boxes, erase_boxes
from datamodules.views.image.color import blurred, grey, shifted_hue, solarized
from datamodules.views.image.color_stages import BRIGHTNESS, CONTRAST, HUE, SATURATION
from datamodules.views.image.resized_crop import resize_boxes, resize_weights
from foundation.errors import UserError
from foundation.randomness import Randomness

CPU = torch.device("cpu")


def keyed(rows, **place):
    randomness = Randomness(**({"seed": 0, "step": 0} | place))
    return lambda purpose: randomness.draw(purpose, rows)


def unit(rows=6, side=24, channels=3):
    return pictures(rows, side).double()[:, :channels] / 255


def drawn(stage, rows, shape=(3, 24, 24)):
    return stage.draw(keyed(rows), shape, CPU)


def apart(ours, theirs):
    """Largest distance of two samples' distribution functions."""
    both = torch.cat([ours, theirs]).unique()
    levels = [
        torch.searchsorted(values.sort().values, both, right=True) / len(values)
        for values in (ours, theirs)
    ]
    return (levels[0] - levels[1]).abs().max().item()


# -- boxes: torchvision's numbers ------------------------------------------------------------------
COUNT = 4000
# the two-sample limit of Kolmogorov and Smirnov at a risk of one in a million
LIMIT = math.sqrt(-0.5 * math.log(5e-7)) * math.sqrt(2 / COUNT)


@pytest.mark.parametrize(
    ("sides", "scale", "ratio"),
    [
        ((256, 256), (0.08, 1.0), (0.75, 4 / 3)),
        ((40, 64), (0.1, 0.6), (0.4, 0.9)),  # width and height differ
        ((16, 90), (0.9, 1.0), (0.75, 4 / 3)),  # hardly ever fits
    ],
)
def test_crops_are_distributed_as_torchvisions(sides, scale, ratio):
    boxes = crop_boxes(keyed(COUNT)("x").uniform(NUMBERS), sides, scale, ratio)
    torch.manual_seed(0)
    picture = torch.zeros(1, *sides)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(picture, list(scale), list(ratio)) for _ in range(COUNT)]
    )
    for place in range(4):
        assert apart(boxes[:, place], theirs[:, place]) < LIMIT, place
    assert apart(boxes[:, 2] * boxes[:, 3], theirs[:, 2] * theirs[:, 3]) < LIMIT


def test_erased_boxes_are_distributed_as_torchvisions():
    sides, scale, ratio = (40, 64), (0.1, 0.9), (0.3, 1.2)
    boxes = erase_boxes(keyed(COUNT)("x").uniform(NUMBERS), sides, scale, ratio)
    boxes = boxes[boxes[:, 2] > 0]
    torch.manual_seed(0)
    picture = torch.zeros(1, *sides)
    theirs = [RandomErasing.get_params(picture, scale, ratio, [0.0]) for _ in range(COUNT)]
    theirs = torch.tensor([found[:4] for found in theirs if found[2:4] != sides])
    # a try that fails ten times is as rare in both
    assert abs(len(boxes) - len(theirs)) < 5 * math.sqrt(COUNT)
    for place in range(4):
        assert apart(boxes[:, place], theirs[:, place]) < LIMIT, place


@pytest.mark.parametrize("ratio", [(2.0, 3.0), (0.2, 0.3)])
def test_a_crop_that_never_fits_is_the_largest_in_the_middle(ratio):
    numbers = torch.rand(50, NUMBERS)
    boxes = crop_boxes(numbers, (20, 20), (1.0, 1.0), ratio)
    expected = RandomResizedCrop.get_params(torch.zeros(1, 20, 20), [1.0, 1.0], list(ratio))
    assert boxes.unique(dim=0).tolist() == [list(expected)]


# -- resampling ------------------------------------------------------------------------------------
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_both_kernels_of_a_crop_are_torchvisions(interpolation):
    pixels = pictures(6, 40)
    boxes = torch.tensor(
        [
            [0, 0, 40, 40],
            [3, 5, 30, 9],
            [7, 1, 12, 37],
            [0, 39, 40, 1],
            [5, 5, 20, 20],
            [1, 2, 3, 4],
        ]
    )
    flip = torch.tensor([False, True, False, True, True, False])
    found = resize_boxes(pixels, boxes, flip, 20, interpolation)
    rows = resize_weights(boxes[:, 0], boxes[:, 2], 40, 20, interpolation).double()
    columns = resize_weights(boxes[:, 1], boxes[:, 3], 40, 20, interpolation).double()
    products = rows[:, None] @ pixels.double() @ columns.transpose(1, 2)[:, None]
    mode = reference.InterpolationMode(interpolation)
    for row, box in enumerate(boxes.tolist()):
        exact = reference.resized_crop(pixels[row].double(), *box, [20, 20], mode, antialias=True)
        assert (products[row] - exact).abs().max() < 1e-4
        # that of bytes rounds after each direction
        square = reference.resized_crop(pixels[row], *box, [20, 20], mode, antialias=True)
        assert torch.equal(found[row], reference.horizontal_flip(square) if flip[row] else square)


def test_the_kernel_of_devices_gives_the_same_bytes(monkeypatch):
    pixels = pictures(5, 30)
    crop = ResizedCrop(size=12)
    boxes, flip = crop.draw(keyed(5), (3, 30, 30), CPU)
    here = crop.apply(pixels, boxes, flip)
    monkeypatch.setattr("foundation.devices.readable", lambda tensor: False)
    there = crop.apply(pixels, boxes, flip)
    assert (here.int() - there.int()).abs().max() <= 1


@pytest.mark.parametrize("side", [16, 20, 9])
def test_the_middle_is_resize_and_center_crop(side):
    pixels = pictures(3, side)
    found = Middle(14)(pixels)
    whole = reference.resize(pixels, [16, 16], reference.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(found, reference.center_crop(whole, [14, 14]).float() / 255)


# -- colours ---------------------------------------------------------------------------------------
ADJUST = {
    BRIGHTNESS: reference.adjust_brightness,
    CONTRAST: reference.adjust_contrast,
    SATURATION: reference.adjust_saturation,
    HUE: reference.adjust_hue,
}


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_in_the_drawn_order(channels):
    stage = ColorJitter(0.5, 0.6, 0.7, 0.3)
    before = unit(24, channels=channels)
    order, amounts = drawn(stage, 24, (channels, 24, 24))
    assert len(order.unique(dim=0)) > 8
    found = stage.apply(before.clone(), order, amounts.double())
    for row, picture in enumerate(before):
        for code in order[row].tolist():
            picture = ADJUST[code](picture, amounts[row, code].item())
        # torchvision turns hues in float32
        assert (found[row] - picture).abs().max() < 2e-6, row


def test_jitter_draws_what_its_settings_say():
    order, amounts = drawn(ColorJitter(0.4, 1.5, 0.2, 0.1, probability=0.8), 6000)
    changed = (amounts != amounts.new_tensor([1, 1, 1, 0])).any(1)
    assert changed.float().mean().item() == pytest.approx(0.8, abs=0.03)
    for code, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        values = amounts[changed, code]
        assert low <= values.min() and values.max() <= high
        assert apart(values, torch.linspace(low, high, COUNT)) < LIMIT
    counts = (order * order.new_tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 250 - 6 * math.sqrt(250)


def test_hue_turns_as_torchvisions():
    before = torch.cat([unit(8), torch.zeros(1, 3, 24, 24), torch.ones(1, 3, 24, 24)]).double()
    turn = torch.linspace(-0.5, 0.5, 10).double()
    found = shifted_hue(before, turn)
    for row, picture in enumerate(before):
        assert (found[row] - reference.adjust_hue(picture, turn[row].item())).abs().max() < 1e-6


def test_blur_grey_and_solarize_are_torchvisions():
    before = unit(5, 32)
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0]).double()
    found = blurred(before, sigma, 8)
    for row, picture in enumerate(before):
        exact = reference.gaussian_blur(picture, [17, 17], [sigma[row].item()] * 2)
        assert (found[row] - exact).abs().max() < 1e-6
    assert torch.allclose(grey(before), reference.rgb_to_grayscale(before), atol=1e-9)
    assert torch.equal(solarized(before, 0.5), reference.solarize(before, 0.5))


def test_three_augment_does_one_of_three_and_jitters():
    stage = ThreeAugment()
    before = unit(12, 32)
    which, sigma, order, amounts = drawn(stage, 12, (3, 32, 32))
    assert which.unique().tolist() == [0, 1, 2]
    found = stage.apply(before.clone(), which, sigma, order, amounts.double())
    for row, picture in enumerate(before):
        width = [sigma[row].item()] * 2
        picture = [
            lambda x: reference.rgb_to_grayscale(x, 3),
            lambda x: reference.solarize(x, 128 / 255),
            lambda x, width=width: reference.gaussian_blur(x, [17, 17], width),
        ][which[row]](picture)
        for code in order[row].tolist():
            picture = ADJUST[code](picture, amounts[row, code].item())
        assert (found[row] - picture).abs().max() < 2e-6, row
    many, sigma, *_ = drawn(stage, 6000, (3, 32, 32))
    assert many.bincount().min() > 2000 - 6 * math.sqrt(1400)
    assert apart(sigma, torch.linspace(0.1, 2.0, COUNT)) < LIMIT


def test_colours_of_five_bands_have_no_hue_and_a_mean_grey():
    five = torch.rand(4, 5, 24, 24)
    assert torch.equal(grey(five), five.mean(1, keepdim=True))
    with pytest.raises(UserError, match=r"hue=0\.1 of a color jitter: 5 channels have no hue"):
        drawn(ColorJitter(hue=0.1), 4, (5, 24, 24))
    assert torch.isfinite(ThreeAugment().apply(five, *drawn(ThreeAugment(), 4, (5, 24, 24)))).all()


# -- erasing ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "expected"), [("mean", (0.485, 0.456, 0.406)), (0.25, (0.25, 0.25, 0.25))]
)
def test_erasing_fills_its_box_and_nothing_else(value, expected):
    stage = Erasing(probability=0.5, value=value)
    before = torch.full((40, 3, 24, 24), 0.9)
    (boxes,) = drawn(stage, 40)
    found = stage.apply(before.clone(), boxes)
    for row, box in enumerate(boxes.tolist()):
        picture = reference.erase(before[row], *box, torch.tensor(expected)[:, None, None])
        assert torch.equal(found[row], picture)
    assert 8 < (boxes[:, 2] > 0).sum() < 32


def test_noise_is_that_of_a_normalized_picture():
    stage = Erasing(probability=1.0, scale=(0.9, 0.95), ratio=(1.0, 1.0), value="noise")
    found = stage.apply(torch.zeros(64, 3, 24, 24), *drawn(stage, 64))
    filled = found[:, :, 12, 12]
    assert filled.mean(0).tolist() == pytest.approx([0.485, 0.456, 0.406], abs=0.12)
    assert filled.std(0).tolist() == pytest.approx([0.22, 0.22, 0.22], abs=0.08)
    grey_ones = Erasing(probability=1.0, value="noise")
    assert drawn(grey_ones, 2, (1, 24, 24))[1].shape == (2, 1, 24, 24)


# -- the whole view --------------------------------------------------------------------------------
VIEWS = {
    "crop": Natural(ResizedCrop(20)),
    "trivial": Natural(ResizedCrop(20), TrivialAugment(), erase=Erasing(1.0)),
    "auto": Natural(ResizedCrop(20), AutoAugment()),
    "rand": Natural(ResizedCrop(20), RandAugment()),
    "three": Natural(Weak(shift=0.1), color=ThreeAugment()),
    "jitter": Natural(ResizedCrop(20), color=ColorJitter(hue=0.1), erase=Erasing(value="noise")),
    "strong": Strong(weak=ResizedCrop(20)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_ranks_and_blocks_do_not_show(name, monkeypatch):
    view = VIEWS[name]
    pixels = pictures(12, 24)
    whole = view(pixels, keyed(12, step=3))
    side = view.size or 24
    assert whole.shape == (12, 3, side, side) and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1
    halves = [
        view(pixels[6 * rank : 6 * rank + 6], keyed(6, step=3, rank=rank, world=2))
        for rank in range(2)
    ]
    assert torch.equal(torch.cat(halves), whole)
    assert not torch.equal(view(pixels, keyed(12, step=4)), whole)
    monkeypatch.setattr("datamodules.views.image.stage.BLOCK", 5000)
    assert torch.equal(view(pixels, keyed(12, step=3)), whole)


@pytest.mark.parametrize("policy", [TrivialAugment(), AutoAugment(), RandAugment()])
@pytest.mark.parametrize("color", [ColorJitter(hue=0.1), ThreeAugment()])
def test_what_a_device_computes_is_the_same(policy, color, monkeypatch):
    """Masks in place of row numbers. The kernels of crops, which round differently, are above."""
    view = Natural(Weak(), policy, color, Erasing())
    pixels = pictures(24, 24)
    here = view(pixels, keyed(24))
    monkeypatch.setattr("foundation.devices.readable", lambda tensor: False)
    assert torch.allclose(here, view(pixels, keyed(24)), atol=1e-6)


def test_pixels_are_not_overwritten():
    for view in VIEWS.values():
        pixels = pictures(4, 24)
        view(pixels, keyed(4))
        assert torch.equal(pixels, pictures(4, 24))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ResizedCrop(scale=(0.0, 1.0)),
            r"scale .* expected two ascending numbers above 0 to 1",
        ),
        (lambda: ResizedCrop(scale=(0.5, 0.2)), r"got \[0\.5, 0\.2\]"),
        (lambda: ResizedCrop(ratio=(0.5,)), r"got \[0\.5\]"),
        (lambda: Erasing(scale=(0.1, 1.2)), "scale of erasing"),
        (lambda: Erasing(value="grey"), "expected mean, noise or a level"),
        (lambda: Middle(share=0.0), "share of a middle view"),
        (
            lambda: Natural(policy=object()),
            "policy of a natural view: object has no draw and apply",
        ),
    ],
)
def test_wrong_settings_are_one_line(make, words):
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
