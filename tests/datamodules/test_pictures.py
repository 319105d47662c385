"""Pictures of every mode become the same 8 bits, and broken ones are found before training."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.picture_form import PictureForm
from datamodules.sources import ImageFolder, pictures
from datamodules.sources.pictures import check_pictures, fitted, read_picture
from foundation.errors import UserError

GRAY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
GRAY_FORM = PictureForm(1, 8, 8)
COLOUR_FORM = PictureForm(3, 8, 8)
FORMS = {"L": GRAY_FORM, "RGB": COLOUR_FORM}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


# -- modes -----------------------------------------------------------------------------------------
DEEP = {
    "png of 16 bits": ("a.png", GRAY.astype(np.uint16) * 257),
    "tif of 16 bits": ("a.tif", GRAY.astype(np.uint16) * 257),
    "big-endian tif of 16 bits": ("a.tif", (GRAY.astype(np.uint16) * 257).astype(">u2")),
    "pgm of 16 bits": ("a.pgm", GRAY.astype(np.uint16) * 257),
    "floats in [0, 1]": ("a.tif", GRAY.astype(np.float32) / 255),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("case", DEEP)
def test_deep_pictures_are_scaled_to_8_bits(tmp_path, case, mode):
    name, values = DEEP[case]
    found = read_picture(saved(tmp_path / name, values), FORMS[mode])
    assert len(found) == len(mode)
    for channel in found:
        assert channel.numpy().tolist() == GRAY.tolist()


def test_a_turned_picture_of_16_bits_keeps_its_scale(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", GRAY.astype(np.uint16) * 257, exif=exif)
    assert read_picture(path, GRAY_FORM)[0].numpy().tolist() == np.rot90(GRAY, -1).tolist()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GRAY.astype(np.float32), r"floating pixels from 0 to 252; expected \[0, 1\]"),
        (np.full((8, 8), np.nan, np.float32), "floating pixels from nan to nan"),
        (GRAY.astype(np.int32), "pixels of 32-bit integers, whose range is unknown"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, values, words):
    path = saved(tmp_path / "a.tif", values)
    with pytest.raises(UserError, match=rf"a\.tif: {words}"):
        read_picture(path, GRAY_FORM)


def with_hidden_red(mode):
    """A picture whose left half is opaque blue and whose right half is transparent red."""
    colors = np.zeros((8, 8, 4), np.uint8)
    colors[:, :4] = (0, 0, 255, 255)
    colors[:, 4:] = (255, 0, 0, 0)
    picture = Image.fromarray(colors)
    if mode == "P":
        picture = Image.fromarray(colors[:, :, :3]).quantize(2)
        picture.info["transparency"] = picture.getpixel((7, 0))
    if mode == "RGB":
        picture = Image.fromarray(colors[:, :, :3])
        picture.info["transparency"] = (255, 0, 0)
    return picture if mode in ("P", "RGB") else picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
def test_transparent_pixels_are_white_and_not_what_lies_under_them(tmp_path, mode):
    with_hidden_red(mode).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", COLOUR_FORM)
    assert found[:, 4, 0].tolist() == [0, 0, 255]
    assert found[:, 4, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["LA", "La"])
def test_transparent_gray_is_white(mode):
    gray = np.stack([GRAY, np.zeros_like(GRAY)], 2)
    picture = Image.fromarray(gray).convert(mode)
    assert fitted(picture, GRAY_FORM).unique().tolist() == [255]


def test_a_transparent_value_of_16_bits_is_white(tmp_path):
    values = np.full((8, 8), 257 * 7, np.uint16)
    values[0, 0] = 0
    path = saved(tmp_path / "a.png", values, transparency=257 * 7)
    found = read_picture(path, GRAY_FORM)
    assert found[0, 0, 0] == 0 and found[0, 7, 7] == 255


MODES = ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I;16B", "RGBX", "PA"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_converted(mode):
    for target in ("L", "RGB"):
        assert fitted(Image.new(mode, (8, 8)), FORMS[target]).shape == (len(target), 8, 8)


# -- broken files ----------------------------------------------------------------------------------
def noise(path):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return saved(path, values)


def write_set(folder):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                noise(folder / part / name / f"{number}.jpg")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_truncated_jpeg_is_found_before_training(tmp_path, part):
    write_set(tmp_path / "set")
    for number in (0, 1):
        path = tmp_path / "set" / part / "b" / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:1500])
    words = rf"{part}/b/0\.jpg and 1 more: not a picture that can be read; repair"
    with pytest.raises(UserError, match=words):
        ImageFolder(size=8).load(tmp_path / "set")
    assert len(ImageFolder(size=8, check="none").load(tmp_path / "set").train) == 6
    if part == "train":
        ImageFolder(size=8, check="evaluation").load(tmp_path / "set")
    else:
        with pytest.raises(UserError, match=words):
            ImageFolder(size=8, check="evaluation").load(tmp_path / "set")


def count_decoded(monkeypatch):
    """The paths that are decoded from now on."""
    decoded = []
    original = pictures.read_picture
    monkeypatch.setattr(
        pictures, "read_picture", lambda path, *rest: decoded.append(path) or original(path, *rest)
    )
    return decoded


def test_unchanged_pictures_are_decoded_once(tmp_path, monkeypatch):
    paths = [str(noise(tmp_path / f"{number}.png")) for number in range(3)]
    decoded = count_decoded(monkeypatch)
    for _ in range(2):
        check_pictures(paths, GRAY_FORM)
    assert sorted(decoded) == paths
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"1\.png: not a picture"):
        check_pictures(paths, GRAY_FORM)


def test_a_check_without_a_cache_folder_checks_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = str(noise(tmp_path / "a.png"))
    decoded = count_decoded(monkeypatch)
    for _ in range(2):
        check_pictures([path], GRAY_FORM)
    assert decoded == [path, path]


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"II*\0\xff\xff\xff\xff", b"GIF89a"]
)
def test_rubbish_is_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: not a picture that can be read"):
        read_picture(tmp_path / "a.png", GRAY_FORM)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, impatient):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="a pipe, socket or device"):
        read_picture(tmp_path / "a.png", GRAY_FORM)
    write_set(tmp_path / "set")
    os.mkfifo(tmp_path / "set" / "train" / "a" / "x.png")
    with pytest.raises(UserError, match=r"x\.png: cannot be read"):
        ImageFolder(size=8, check="none").load(tmp_path / "set")


def test_gray_pictures_keep_their_values_on_white(tmp_path):
    opaque = np.stack([GRAY] * 3 + [np.full_like(GRAY, 255)], 2)
    found = fitted(Image.fromarray(opaque), GRAY_FORM)
    assert torch.equal(found[0], torch.from_numpy(GRAY))
