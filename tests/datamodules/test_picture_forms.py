"""What becomes of the aspect of a picture, and pictures of other channels than grey and colour."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules.picture_form import PictureForm, square
from datamodules.sources import ImageFolder, ImageTable, OwnImages
from datamodules.sources.bands import bands_of, read_bands
from datamodules.sources.pictures import fitted, read_picture
from foundation.errors import UserError

WIDE = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3) // 2


def made(fit, fill=None, side=8, channels=3, values=WIDE):
    return fitted(Image.fromarray(values), square(channels, side, fit, fill))


# -- the aspect ------------------------------------------------------------------------------------
def test_crop_keeps_the_middle():
    assert torch.equal(made("crop"), torch.from_numpy(WIDE[:, 4:12]).permute(2, 0, 1))


def test_pad_keeps_everything_between_two_borders():
    found = made("pad", 0.25)
    half = np.asarray(Image.fromarray(WIDE).resize((8, 4), Image.Resampling.BICUBIC))
    assert torch.equal(found[:, 2:6], torch.from_numpy(half.copy()).permute(2, 0, 1))
    assert found[:, :2].unique().tolist() == found[:, 6:].unique().tolist() == [64]


def test_the_border_of_a_grey_picture_is_grey():
    found = made("pad", channels=1)
    assert found.shape == (1, 8, 8) and found[:, 0].unique().tolist() == [128]


def test_squash_scales_both_sides():
    whole = np.asarray(Image.fromarray(WIDE).resize((8, 8), Image.Resampling.BICUBIC))
    assert torch.equal(made("squash"), torch.from_numpy(whole.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("sides", [(5, 9), (31, 17), (64, 64), (7, 200)])
def test_crop_is_what_it_was(sides):
    values = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    before = ImageOps.fit(Image.fromarray(values), (12, 12), Image.Resampling.BICUBIC)
    found = made("crop", side=12, values=values)
    assert torch.equal(found, torch.from_numpy(np.array(before)).permute(2, 0, 1))


def test_every_loader_has_the_setting(tmp_path):
    for number in range(4):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(WIDE).save(path)
    rows = "".join(f"set/{'ab'[n % 2]}/{n}.png,{n % 2}\n" for n in range(4))
    (tmp_path / "t.csv").write_text("path,label\n" + rows)
    items = [(Image.fromarray(WIDE), number % 2) for number in range(4)]
    settings = {"size": 8, "fit": "pad", "fill": 0.0, "test_fraction": 0.5}
    expected = made("pad", 0.0)
    for loader, root in (
        (ImageFolder(**settings), tmp_path / "set"),
        (ImageTable("t.csv", **settings), tmp_path),
        (OwnImages(items, **settings), None),
    ):
        train = loader.load(root).train
        assert torch.equal(train.fetch(torch.tensor([0]))[0], expected), type(loader)
        assert loader.info().form == train.form == PictureForm(3, 8, 8, "pad", 0.0)


def test_a_border_without_pad_is_refused():
    with pytest.raises(UserError, match=r"data\.source\.fill=0\.3: is the border that .*fit=pad"):
        ImageFolder(fill=0.3)


# -- other numbers of channels ---------------------------------------------------------------------
BANDS = np.random.default_rng(0).integers(0, 256, (6, 8, 5), dtype=np.uint8)
FIVE = PictureForm(5, 6, 6)


def saved(path, values):
    np.save(path, values)
    return path


@pytest.mark.parametrize(
    "values",
    [
        BANDS,
        np.moveaxis(BANDS, 2, 0),
        BANDS.astype(np.uint16) * 257,
        BANDS.astype(np.float32) / 255,
        BANDS.astype(">u2") * 257,
    ],
)
def test_arrays_of_five_bands(tmp_path, values):
    found = read_picture(saved(tmp_path / "a.npy", values), FIVE)
    assert torch.equal(found, torch.from_numpy(BANDS[:, 1:7]).permute(2, 0, 1))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_bands_are_brought_to_the_form_as_pictures_are(fit):
    """Pillow rounds after each direction, so that a level may differ by one or two; its crop reads
    beyond the edge that it cuts at."""
    noise = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    form = PictureForm(3, 10, 10, fit)
    picture = fitted(Image.fromarray(noise), form)
    inner = slice(2, -2) if fit == "crop" else slice(None)
    off = bands_of(noise, form).int() - picture.int()
    assert off[:, :, inner].abs().max() <= 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (BANDS[..., :4], r"an array \[6, 8, 4\]; expected \[H, W, 5\]"),
        (BANDS.astype(np.float32), r"floating from 0 to 255; expected \[0, 1\]"),
        (np.full((6, 8, 5), np.nan), "floating from nan to nan"),
        (BANDS.astype(np.int32), "are int32; expected uint8, uint16 or floats"),
        (BANDS[..., 0], r"an array \[6, 8\]"),
    ],
)
def test_other_arrays_are_refused(tmp_path, values, words):
    with pytest.raises(UserError, match=rf"a\.npy: {words}"):
        read_picture(saved(tmp_path / "a.npy", values), FIVE)


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy: not a picture that can be read"):
        read_picture(tmp_path / "a.npy", FIVE)


def test_a_png_has_no_five_bands(tmp_path):
    Image.fromarray(WIDE).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"'\.png' has no pictures of 5 channels; expected \.npy"):
        read_bands(tmp_path / "a.png", FIVE)


def test_tiff_of_bands_or_what_to_install(tmp_path):
    try:
        import tifffile
    except ImportError:
        (tmp_path / "a.tif").write_bytes(b"")
        with pytest.raises(UserError, match=r"pip install 'roux\[bands\]'"):
            read_picture(tmp_path / "a.tif", FIVE)
        return
    tifffile.imwrite(tmp_path / "a.tif", BANDS)
    assert torch.equal(read_picture(tmp_path / "a.tif", FIVE), bands_of(BANDS, FIVE))


def test_folders_and_datasets_of_bands(tmp_path):
    for number in range(4):
        folder = tmp_path / "set" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        saved(folder / f"{number}.npy", BANDS)
        Image.fromarray(WIDE).save(folder / f"{number}.png")
    settings = {"size": 6, "channels": 5, "test_fraction": 0.5}
    items = [(BANDS, number % 2) for number in range(4)]
    for loader, root in (
        (ImageFolder(**settings), tmp_path / "set"),
        (OwnImages(items, **settings), None),
    ):
        train = loader.load(root).train
        assert len(train) == 2
        assert torch.equal(train.fetch(torch.tensor([1]))[0], bands_of(BANDS, FIVE))
