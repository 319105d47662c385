"""What counts as a picture and as a class in a folder: links, hidden files, odd names, parts."""

import os

import pytest
import torch
from PIL import Image

from datamodules.sources import ImageFolder
from foundation.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def write(folder, count=5):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("L", (4, 4), number).save(folder / f"{number}.png")


def load(folder):
    return ImageFolder(size=4, channels=1).load(folder)


def total(splits):
    return len(splits.train) + len(splits.test)


def test_hidden_files_and_folders_are_no_pictures(place):
    for name in ("a", "b"):
        write(place / name)
        write(place / name / ".ipynb_checkpoints")
        write(place / name / "__MACOSX")
        (place / name / "._0.png").write_bytes(b"resource fork")
    write(place / "__MACOSX" / "a")
    write(place / ".thumbnails")
    splits = load(place)
    assert total(splits) == 10 and splits.train.classes == {"label": ["a", "b"]}


def test_links_to_folders_are_followed_once(place, tmp_path):
    write(tmp_path / "elsewhere", 3)
    for name in ("a", "b"):
        write(place / name)
    (place / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (place / "a" / "again").symlink_to(tmp_path / "elsewhere")
    (place / "a" / "loop").symlink_to(place / "a")
    (place / "c").symlink_to(tmp_path / "elsewhere")
    splits = load(place)
    assert total(splits) == 5 + 3 + 5 + 3
    named = [*splits.train.paths, *splits.test.paths]
    assert sum("/a/again/" in path for path in named) == 3
    assert not any("/more/" in path or "/loop/" in path for path in named)


@pytest.mark.parametrize("link", ["a/9.png", "c"])
def test_a_link_to_nothing_is_named(place, link):
    for name in ("a", "b"):
        write(place / name)
    (place / link).symlink_to(place / "gone")
    with pytest.raises(UserError, match=rf"{link}: a link to '.*gone', which does not exist"):
        load(place)


def test_a_folder_named_as_a_picture_is_a_folder(place):
    for name in ("a", "b"):
        write(place / name / "set.jpg")
        write(place / name, 1)
    assert total(load(place)) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(place):
    for name in ("a", "b"):
        write(place / name)
    (place / "a" / "locked").mkdir(mode=0)
    with pytest.raises(UserError, match=r"locked: cannot be read"):
        load(place)


# -- parts -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "names",
    [("Train", "Test", "Val"), ("TRAIN", "test", "valid"), ("training", "testing", "validation")],
)
def test_parts_are_known_in_any_case(place, names):
    for part, count in zip(names, (5, 2, 3), strict=True):
        for name in ("a", "b"):
            write(place / part / name, count)
    splits = load(place)
    assert [len(part) for part in (splits.train, splits.test, splits.val)] == [10, 4, 6]
    assert splits.train.classes == {"label": ["a", "b"]}


def test_parts_that_are_named_twice_or_missing(place):
    for part in ("train", "Train", "test"):
        for name in ("a", "b"):
            write(place / part / name)
    with pytest.raises(UserError, match="both 'Train' and 'train' are its train part"):
        load(place)


def test_a_test_part_alone_is_no_class(place):
    for part in ("test", "val"):
        for name in ("a", "b"):
            write(place / part / name)
    with pytest.raises(UserError, match="has a folder 'test' but no folder 'train' beside it"):
        load(place)


def test_classes_may_have_names_of_parts(place):
    for name in ("plane", "train", "validation"):
        write(place / name)
    assert load(place).train.classes == {"label": ["plane", "train", "validation"]}


# -- names -----------------------------------------------------------------------------------------
def test_a_class_that_is_no_unicode_is_refused_before_training(place):
    write(place / "a")
    odd = os.fsdecode(b"caf\xe9")
    write(place / odd)
    with pytest.raises(UserError, match=r"class folder 'caf\\udce9' is not valid utf-8; rename"):
        load(place)


def test_odd_names_of_files_and_classes(place):
    names = ["a b", "c,d", "é", "猫", "ü=x", "[x]"]
    for name in names:
        write(place / name)
        Image.new("L", (4, 4)).save(place / name / os.fsdecode(b"caf\xe9.png"))
    splits = load(place)
    assert splits.train.classes == {"label": sorted(names)}
    assert total(splits) == 36
    assert splits.train.fetch(torch.arange(len(splits.train))).shape[1:] == (1, 4, 4)


def test_a_class_that_is_spelt_otherwise_in_test_is_named(place):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            write(place / part / name)
    (place / "test" / "cat").rename(place / "test" / "Cat")
    with pytest.raises(UserError, match=r"'Cat' is not among the classes .*did you mean 'cat'"):
        load(place)
