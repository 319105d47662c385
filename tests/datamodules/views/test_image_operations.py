"""Every operation at every level against Pillow, on pictures that have texture, flat channels and
few levels."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from datamodules.views.image import GEOMETRIC, OPERATIONS, PHOTOMETRIC
from datamodules.views.image.cutout import box_mask
from datamodules.views.image.geometry import maps_of, resample, walking
from datamodules.views.image.operations import apply_operations
from datamodules.views.image.randaugment import VARIANTS, values_of
from datamodules.views.image.weak import flip_shift
from foundation import devices

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 33)]
FILL = 77
STEPS = np.arange(0.35, 10, 1.3)


def pictures(shape: tuple[int, int, int], count: int = 7) -> torch.Tensor:
    """Noise of several ranges, smooth gradients, a constant picture, one of two levels."""
    random = torch.Generator().manual_seed(sum(shape))
    noise = torch.rand(count, *shape, generator=random)
    across = (
        torch.linspace(0, 1, shape[2]).expand(shape) * torch.linspace(0.3, 1, shape[1])[:, None]
    )
    low, reach = (
        torch.rand(count, shape[0], 1, 1, generator=random) * 0.5,
        torch.rand(count, 1, 1, 1, generator=random),
    )
    mixed = low + reach * (1 - low) * torch.where(
        torch.arange(count)[:, None, None, None] % 2 == 0, noise, across
    )
    pixels = (mixed * 255).round().to(torch.uint8)
    pixels[0] = 93
    pixels[1] = (noise[1] > 0.8).to(torch.uint8) * 200
    return pixels


def to_pil(pixels: torch.Tensor) -> Image.Image:
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def from_pil(picture: Image.Image) -> torch.Tensor:
    array = np.asarray(picture)
    return torch.tensor(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)


def pillow(name: str, picture: Image.Image, value: float) -> Image.Image:
    """What the authors' code does, one picture at a time."""
    width, height = picture.size
    fill = FILL if picture.mode == "L" else (FILL,) * 3
    affine = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * height),
    }
    if name in affine:
        return picture.transform(picture.size, Image.Transform.AFFINE, affine[name], fillcolor=fill)
    if name == "rotate":
        return picture.rotate(value, fillcolor=fill)
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(picture).enhance(value)
    if name in ("solarize", "posterize"):
        return getattr(ImageOps, name)(picture, int(value))
    return picture if name == "identity" else getattr(ImageOps, name)(picture)


def table(variant: str, name: str, levels: list[float]) -> list[float]:
    """Both signs of every level."""
    level = torch.tensor(levels, dtype=torch.float64).repeat(2)
    code = torch.full_like(level, OPERATIONS.index(name), dtype=torch.long)
    return values_of(
        VARIANTS[variant].table(), code, level, torch.arange(len(level)) >= len(levels)
    ).tolist()


def all_values(name: str) -> list[float]:
    """Of all tables: every level that is drawn from a list, uniform ones in steps (not whole: those
    end on ties)."""
    values = table("fixmatch", name, list(range(1, 10))) + table(
        "nm", name, [step / 3 for step in range(31)]
    )
    return sorted(
        set(values + [v for form in ("paper", "usb") for v in table(form, name, list(STEPS))])
    )


def ours(name: str, pixels: torch.Tensor, value: float) -> torch.Tensor:
    codes = torch.full((len(pixels), 1), OPERATIONS.index(name))
    return apply_operations(
        pixels.clone(), codes, torch.full(codes.shape, value).double(), OPERATIONS, FILL
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["identity", *PHOTOMETRIC])
def test_photometric_equals_pillow_at_every_level(name: str, shape: tuple[int, int, int]) -> None:
    """Equal on x86; where Pillow's compiler fuses multiply and add, a value on the edge may be one
    grey level off."""
    pixels = pictures(shape)
    for value in all_values(name):
        expected = torch.stack(
            [from_pil(pillow(name, to_pil(picture), value)) for picture in pixels]
        )
        error = (ours(name, pixels, value).int() - expected.int()).abs()
        assert error.max() <= 1 and (error == 0).float().mean() > 0.999, f"{name} {value}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_equals_pillow_at_every_level(name: str, shape: tuple[int, int, int]) -> None:
    """Every pixel, but for ties: a shift that ends on half a pixel to the last bit may round the
    other way."""
    pixels = pictures(shape)[2:]
    for value in all_values(name):
        expected = torch.stack(
            [from_pil(pillow(name, to_pil(picture), value)) for picture in pixels]
        )
        agree = (ours(name, pixels, value) == expected).float().mean()
        assert agree >= 0.999, f"{name} {value}: {agree}"


def test_something_changes_and_out_of_frame_is_filled() -> None:
    pixels = pictures((3, 32, 32))[2:]
    for name in OPERATIONS[1:]:
        value = table("fixmatch", name, [8])[0]
        changed = ours(name, pixels, value)
        assert not torch.equal(changed, pixels), name
        assert ((changed == FILL).all(1).sum() > 8 * len(pixels)) == (name in GEOMETRIC), name


def test_rows_are_independent_and_slots_in_order() -> None:
    """A batch in which every row has its own two operations equals each row alone, one slot after
    the other."""
    pairs = list(itertools.product(range(len(OPERATIONS)), repeat=2))
    pixels = pictures((3, 32, 32), len(pairs))
    codes = torch.tensor(pairs)
    level = torch.randint(1, 10, codes.shape, generator=torch.Generator().manual_seed(1)).double()
    values = values_of(VARIANTS["fixmatch"].table(), codes, level, level > 5)
    together = apply_operations(pixels.clone(), codes, values, OPERATIONS, FILL)
    for row, (first, second) in enumerate(pairs):
        if OPERATIONS[first] in GEOMETRIC and OPERATIONS[second] in GEOMETRIC:
            continue  # composed: tested on its own
        alone = pixels[row : row + 1]
        for slot, code in enumerate((first, second)):
            alone = ours(OPERATIONS[code], alone, values[row, slot].item())
        assert torch.equal(together[row], alone[0]), (OPERATIONS[first], OPERATIONS[second])


def test_masks_and_row_lists_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form for accelerators (masks, all rows computed) gives what the row lists of the CPU
    give."""

    pixels = pictures((3, 32, 32), 200)
    random = torch.Generator().manual_seed(2)
    codes = torch.randint(0, len(OPERATIONS), (200, 3), generator=random)
    level = torch.randint(1, 10, codes.shape, generator=random).double()
    values = values_of(VARIANTS["fixmatch"].table(), codes, level, level > 5)
    listed = apply_operations(pixels.clone(), codes, values, OPERATIONS, FILL)
    monkeypatch.setattr(devices, "readable", lambda tensor: False)
    assert torch.equal(apply_operations(pixels.clone(), codes, values, OPERATIONS, FILL), listed)


def test_accelerators_never_make_the_host_wait() -> None:
    """On the meta device no number exists, so an operation that reads one, or a length that depends
    on one, raises."""
    pixels = torch.empty(16, 3, 32, 32, dtype=torch.uint8, device="meta")
    codes = torch.empty(16, 3, dtype=torch.long, device="meta")
    table = VARIANTS["fixmatch"].table().to("meta")
    values = values_of(table, codes, torch.ones_like(codes).double(), codes > 0)
    assert apply_operations(pixels, codes, values, OPERATIONS, FILL).shape == pixels.shape
    assert flip_shift(pixels, codes[:, 0] > 0, codes[:, 1], codes[:, 2]).shape == pixels.shape
    number = torch.empty(16, 2, device="meta")
    assert box_mask(number, number[:, 0], 32, 32).shape == (16, 1, 32, 32)
    with pytest.raises((RuntimeError, NotImplementedError)):
        (codes > 0).nonzero().tolist()


def test_two_geometric_operations_are_one_resampling() -> None:
    """There and back is the identity, also for pixels that were out of the frame on the way: Pillow
    would lose them."""
    pixels = pictures((3, 32, 32))
    code = OPERATIONS.index("translate_x")
    codes = torch.tensor([[code, code]]).expand(len(pixels), 2)
    values = torch.tensor([[0.25, -0.25]], dtype=torch.float64).expand(len(pixels), 2)
    assert torch.equal(apply_operations(pixels.clone(), codes, values, OPERATIONS, FILL), pixels)


def test_composition_has_the_order_of_the_slots() -> None:
    """Rotate then shear is one affine transform of Pillow whose matrix is the product of the
    two."""
    pixels = pictures((3, 32, 32))[2:]
    degrees, shear = 21.0, 0.18
    codes = torch.tensor([[OPERATIONS.index("rotate"), OPERATIONS.index("shear_x")]]).expand(
        len(pixels), 2
    )
    values = torch.tensor([[degrees, shear]], dtype=torch.float64).expand(len(pixels), 2)
    cos, sin = np.cos(-np.radians(degrees)), np.sin(-np.radians(degrees))
    middle = np.array([[1, 0, 16], [0, 1, 16], [0, 0, 1.0]])
    rotate = middle @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ np.linalg.inv(middle)
    matrix = rotate @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    data = tuple(matrix[:2].flatten())
    expected = [
        to_pil(p).transform((32, 32), Image.Transform.AFFINE, data, fillcolor=(FILL,) * 3)
        for p in pixels
    ]
    result = apply_operations(pixels.clone(), codes, values, OPERATIONS, FILL)
    assert (result == torch.stack([from_pil(p) for p in expected])).float().mean() > 0.99


def test_both_kinds_of_integers_walk_alike() -> None:
    """int32 where no place can leave its range, int64 beyond: the same pictures."""
    assert walking(224, 3) == torch.int32 and walking(224, 14) == walking(10000, 1) == torch.int64
    pixels = pictures((3, 20, 33), 50)
    amount = (
        torch.rand(50, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2
        - 1
    )
    maps = maps_of(amount * torch.tensor([30, 0.3, 0.3, 0.45, 0.45]), (20, 33))
    chained = maps[:, 0] @ maps[:, 1] @ maps[:, 2]
    assert torch.equal(
        resample(pixels, chained, FILL, chain=3), resample(pixels, chained, FILL, chain=40)
    )


@pytest.mark.parametrize("side", [3, 5, 8, 9, 11])
def test_rows_of_any_length_are_written(side: int) -> None:
    """Rows go back as integers of 8, 4, 2 or 1 bytes, whichever divides them; also from the middle
    of a tensor."""
    store = pictures((1, side, side), 40)
    pixels = store[3:]
    codes = torch.arange(37)[:, None] % len(OPERATIONS)
    values = values_of(
        VARIANTS["fixmatch"].table(), codes, torch.full(codes.shape, 5.0).double(), codes > 6
    )
    alone = [
        ours(OPERATIONS[code], pixels[i : i + 1], values[i, 0].item())
        for i, code in enumerate(codes[:, 0])
    ]
    assert torch.equal(apply_operations(pixels, codes, values, OPERATIONS, FILL), torch.cat(alone))
