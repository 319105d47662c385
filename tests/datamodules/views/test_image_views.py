"""What the views draw and deliver: geometry of the weak view, tables, distribution, keys, ranks,
cutout."""

import numpy as np
import pytest
import torch

from datamodules.views.image import OPERATIONS, Raw, Strong, Weak
from datamodules.views.image.cutout import box_mask
from datamodules.views.image.operations import ENHANCE, GEOMETRIC
from datamodules.views.image.randaugment import VARIANTS, values_of
from datamodules.views.image.weak import flip_shift
from foundation.errors import UserError
from foundation.randomness import Randomness

STILL = Weak(flip=False, shift=0.0)


def images(rows: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.randint(
        0, 256, (rows, channels, height, width), generator=random, dtype=torch.uint8
    )


def keyed(rows: int, **place: int):
    randomness = Randomness(**({"seed": 0, "step": 0} | place))
    return lambda purpose: randomness.draw(purpose, rows)


def drawn(view: Strong, rows: int, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return view.draw(keyed(rows, step=step), torch.device("cpu"))


# -- raw and weak ----------------------------------------------------------------------------------
def test_raw_is_pixels_over_255() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    view = Raw()(pixels)
    assert view.dtype == torch.float32
    assert np.array_equal(view.numpy().ravel(), np.arange(256, dtype=np.float32) / np.float32(255))


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "reflect"), ("zeros", "constant")])
def test_flip_and_shift_equal_pad_and_crop(padding: str, mode: str) -> None:
    pixels = images(24, 3, 9, 12)
    random = torch.Generator().manual_seed(0)
    flip = torch.rand(24, generator=random) < 0.5
    down, right = torch.randint(-4, 5, (2, 24), generator=random)
    result = flip_shift(pixels, flip, down, right, padding)
    for row, picture in enumerate(pixels.numpy()):
        turned = picture[:, :, ::-1] if flip[row] else picture
        padded = np.pad(turned, ((0, 0), (4, 4), (4, 4)), mode=mode)
        top, left = 4 + int(down[row]), 4 + int(right[row])
        assert np.array_equal(result[row].numpy(), padded[:, top : top + 9, left : left + 12]), row


def test_weak_draws_every_flip_and_shift_equally() -> None:
    """One lit pixel in the middle tells the shift; a picture that rises from left to right tells
    the flip."""
    point = torch.zeros(6000, 1, 16, 16, dtype=torch.uint8)
    point[:, :, 7, 7] = 1
    seen = flip_shift(point, *_weak_numbers(Weak(flip=False), 6000)).flatten(1).argmax(1)
    counts = torch.bincount(seen, minlength=256).view(16, 16)
    assert (counts > 0).sum() == 25 and (
        counts[5:10, 5:10] > 0
    ).all()  # int(0.125 * 16) = 2 pixels each way
    assert (counts[5:10, 5:10] - 240).abs().max() < 5 * 240**0.5
    ramp = torch.arange(16, dtype=torch.uint8).expand(6000, 1, 16, 16)
    assert abs(_rises(Weak(), ramp).mean() - 0.5) < 0.03
    assert _rises(Weak(flip=False), ramp).all()


def _weak_numbers(weak: Weak, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The shifts that the view applies, read off a picture of coordinates."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    grid = (y * 16 + x).to(torch.uint8).expand(rows, 1, 16, 16)
    middle = weak.pixels(grid, keyed(rows))[:, 0, 8, 8].long()
    return torch.zeros(rows, dtype=torch.bool), middle // 16 - 8, middle % 16 - 8


def _rises(weak: Weak, ramp: torch.Tensor) -> torch.Tensor:
    view = weak(ramp, keyed(len(ramp)))
    return (view[:, 0, 8, 12] > view[:, 0, 8, 4]).float()


def test_no_flip_no_shift_is_raw() -> None:
    pixels = images(8)
    assert torch.equal(STILL(pixels, keyed(8)), Raw()(pixels))


# -- tables ----------------------------------------------------------------------------------------
def test_table_of_the_authors_code() -> None:
    levels = torch.arange(1, 10, dtype=torch.float64)

    def row(name: str, mirror: bool = False) -> list[float]:
        codes = torch.full((9,), OPERATIONS.index(name))
        return values_of(
            VARIANTS["fixmatch"].table(), codes, levels, torch.full((9,), mirror)
        ).tolist()

    for name in ENHANCE:
        assert (
            row(name)
            == row(name, mirror=True)
            == pytest.approx([0.1 + 0.18 * level for level in range(1, 10)])
        )
    assert row("posterize") == row("posterize", True) == [4, 4, 3, 3, 2, 2, 2, 1, 1]
    assert row("solarize") == row("solarize", True) == [231, 205, 180, 154, 128, 103, 77, 52, 26]
    assert row("rotate") == [3.0 * level for level in range(1, 10)]
    assert (
        row("shear_x") == row("shear_y") == pytest.approx([0.03 * level for level in range(1, 10)])
    )
    assert row("translate_x") == row("translate_y") == [level / 32 for level in range(1, 10)]
    for name in GEOMETRIC:
        assert row(name, mirror=True) == [-value for value in row(name)]


PAPER = {
    "rotate": (-30, 30),
    "shear_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
    "color": (0.05, 0.95),
}
NM = {
    "rotate": (-30, 30),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-150 / 331, 150 / 331),
    "sharpness": (0.1, 1.9),
}


@pytest.mark.parametrize(
    ("variant", "ranges", "bits"),
    [("paper", PAPER, {4, 5, 6, 7, 8}), ("usb", PAPER, {4, 5, 6, 7}), ("nm", NM, {5, 6, 7, 8})],
)
def test_ranges_of_the_other_variants(variant: str, ranges: dict, bits: set[int]) -> None:
    settings = {"magnitude": 30, "magnitude_mode": "random"} if variant == "nm" else {}
    for name, (low, high) in (ranges | {"solarize": (0, 256), "posterize": (4, 8)}).items():
        values = drawn(Strong(variant=variant, pool=[name], **settings), 4000)[1].flatten()
        assert low - 1e-9 <= values.min() and values.max() <= high + 1e-9, name
        if name == "posterize":
            share = values.long().bincount()[4:] / len(values)
            assert set(values.tolist()) == bits
            assert (share[share > 0] - 1 / len(bits)).abs().max() < 0.03
        else:
            counts = torch.histc(values.float(), 10, low, high) / len(values)
            assert (counts - 0.1).abs().max() < 0.025, name


def test_one_magnitude_a_sample_in_variant_nm() -> None:
    fixed = drawn(Strong(variant="nm", n=3, pool=["rotate"], magnitude=15), 64)[1]
    assert (
        torch.equal(fixed.abs(), torch.full_like(fixed, 15.0))
        and (fixed < 0).any()
        and (fixed > 0).any()
    )
    random = drawn(
        Strong(variant="nm", n=3, pool=["rotate"], magnitude=15, magnitude_mode="random"), 64
    )[1].abs()
    assert (
        torch.equal(random, random[:, :1].expand(-1, 3))
        and random.max() <= 15
        and len(random[:, 0].unique()) > 60
    )
    assert (drawn(Strong(variant="nm", pool=["posterize"], magnitude=30), 8)[1] == 4).all()
    pixels = images(32)
    nothing = Strong(
        STILL, variant="nm", magnitude=0, exclude=["autocontrast", "equalize"], cutout=0
    )
    assert torch.equal(nothing(pixels, keyed(32)), Raw()(pixels))


# -- distribution ----------------------------------------------------------------------------------
def test_operations_are_drawn_uniformly_and_applied_half_the_time() -> None:
    codes, values = drawn(Strong(), 14000)
    assert codes.shape == values.shape == (14000, 2)
    share = torch.bincount(codes.flatten(), minlength=14) / codes.numel()
    assert (share[1:] - 0.5 / 14).abs().max() < 0.006  # four standard deviations
    assert abs(share[0] - (0.5 + 0.5 / 14)) < 0.013
    both = (codes > 0).all(1).float().mean()  # slots are independent: ((13/14) / 2)^2
    assert abs(both - (13 / 28) ** 2) < 0.015
    turned = values[codes == OPERATIONS.index("rotate")]
    assert set(turned.abs().tolist()) == {3.0 * level for level in range(1, 10)}
    assert abs((turned < 0).float().mean() - 0.5) < 0.08


@pytest.mark.parametrize(
    ("variant", "n", "applied"), [("paper", 2, 0.5), ("usb", 3, 1.0), ("nm", 2, 1.0)]
)
def test_published_numbers_of_operations(variant: str, n: int, applied: float) -> None:
    codes, _ = drawn(Strong(variant=variant, exclude=["identity"]), 2000)
    assert codes.shape == (2000, n)
    assert abs((codes > 0).float().mean() - applied) < 0.03


def test_pool_and_exclude() -> None:
    codes, _ = drawn(Strong(pool=["rotate", "solarize", "identity"], exclude=["solarize"]), 500)
    assert {OPERATIONS[code] for code in codes.unique()} == {"identity", "rotate"}
    with pytest.raises(UserError, match="did you mean 'rotate'"):
        Strong(pool=["rotat"])
    with pytest.raises(UserError, match="leaves no operation"):
        Strong(pool=["color"], exclude=["color"])
    with pytest.raises(UserError, match="fixmatch"):
        Strong(variant="fixmtach")


# -- the view as a whole ---------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 17, 30)], ids=str)
@pytest.mark.parametrize("variant", ["fixmatch", "paper", "usb", "nm"])
def test_strong_is_finite_in_range_and_on_the_grid(
    variant: str, shape: tuple[int, int, int]
) -> None:
    pixels = images(64, *shape)
    before = pixels.clone()
    view = Strong(variant=variant, cutout=0)(pixels, keyed(64))
    assert view.shape == pixels.shape and view.dtype == torch.float32
    grid = torch.arange(256, dtype=torch.float32) / 255
    assert torch.isin(view, grid).all()
    assert torch.equal(pixels, before), "the loader's pixels were overwritten"
    cut = Strong(variant=variant)(pixels, keyed(64))
    assert cut.min() >= 0 and cut.max() <= 1 and not torch.equal(cut, view)


def test_identity_pool_without_cutout_is_the_weak_view() -> None:
    pixels, weak = images(32), Weak()
    for settings in ({"pool": ["identity"]}, {"n": 0}, {"probability": 0.0}):
        assert torch.equal(
            Strong(weak, cutout=0, **settings)(pixels, keyed(32)), weak(pixels, keyed(32))
        )


def test_same_key_same_view_and_rows_differ() -> None:
    pixels = images(1).expand(64, -1, -1, -1)
    view = Strong()
    first = view(pixels, keyed(64))
    assert torch.equal(first, view(pixels, keyed(64)))
    assert not torch.equal(first, view(pixels, keyed(64, step=1)))
    assert not torch.equal(first, view(pixels, keyed(64, seed=1)))
    assert len(first.flatten(1).unique(dim=0)) == 64


@pytest.mark.parametrize(
    "view", [Weak(), Strong(), Strong(variant="usb"), Strong(variant="nm", magnitude_mode="random")]
)
def test_two_ranks_see_what_one_sees(view: Weak | Strong) -> None:
    pixels = images(48)
    whole = view(pixels, keyed(48))
    halves = [
        view(pixels[24 * rank : 24 * rank + 24], keyed(24, rank=rank, world=2)) for rank in range(2)
    ]
    assert torch.equal(torch.cat(halves), whole)


# -- cutout ----------------------------------------------------------------------------------------
def test_box_has_half_the_side_and_is_cut_at_the_border() -> None:
    centre = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.999, 0.0], [0.25, 0.9]])
    mask = box_mask(centre, torch.full((4,), 0.5), 32, 32)
    assert mask.flatten(1).sum(1).tolist() == [16 * 16, 8 * 8, 9 * 8, 16 * (32 - 20)]
    assert mask[0, 0, 8:24, 8:24].all() and mask[1, 0, :8, :8].all() and mask[2, 0, 23:, :8].all()
    assert box_mask(centre[:1], torch.tensor([0.5]), 8, 12).sum() == 4 * 6


def test_cutout_paints_mid_grey_at_every_place_equally() -> None:
    pixels = torch.full((8000, 1, 8, 8), 255, dtype=torch.uint8)
    view = Strong(STILL, pool=["identity"])(pixels, keyed(8000))
    assert set(view.unique().tolist()) == {0.5, 1.0}
    hidden = (view == 0.5).float().mean(0)[0]
    cover = torch.tensor([sum(c - 2 <= x < c + 2 for c in range(8)) for x in range(8)]) / 8
    assert (hidden - cover[:, None] * cover[None]).abs().max() < 0.03


def test_cutout_of_usb_has_random_side_and_its_colour() -> None:
    pixels = torch.zeros(2000, 3, 32, 32, dtype=torch.uint8)
    view = Strong(STILL, variant="usb", pool=["identity"])(pixels, keyed(2000))
    painted = view[view.sum(1, keepdim=True).expand_as(view) > 0].unique()
    assert torch.equal(painted, torch.tensor([114.0, 123.0, 125.0]) / 255)
    longest = (view[:, 0] > 0).any(1).sum(1)
    assert longest.max() == 15 and (longest == 0).any() and len(longest.unique()) == 16
