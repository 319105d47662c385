"""Lists of the files of a large set: compact, kept in the cache folder, and never of other files than
those that are there."""

import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.fingerprint import fingerprint_of
from datamodules.picture_form import PictureForm
from datamodules.sources import ImageFolder, listing, pictures
from datamodules.sources.cache import say
from datamodules.sources.files import files_below
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.listing import listed
from datamodules.sources.path_list import PathList
from datamodules.streams import Part, PartDataset
from foundation.errors import UserError

OLD = 1_000_000_000 * 10**9


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache folder; every list is long enough to be kept, and every folder quiet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "MANY", 1)
    monkeypatch.setattr(listing, "QUIET", -1e9)
    say.cache_clear()
    return tmp_path / "cache" / "roux"


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "set"
    for name in ("a", "a-b", "b/deep/er", "b/deep"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            Image.new("L", (4, 4), number).save(folder / name / f"{number}.png")
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "a" / "note.txt").write_bytes(b"")
    return folder


def walks(monkeypatch):
    """Notes which folders are read."""
    seen = []
    real = listing.walked
    monkeypatch.setattr(listing, "walked", lambda *a: seen.extend(a[0]) or real(*a))
    return seen


def names(place):
    return [os.path.relpath(path, place) for path in listed([place], {".png"}).paths]


# -- the list --------------------------------------------------------------------------------------
def test_order_is_that_of_sorted_paths(place):
    expected = [str(path) for path in files_below(place, {".png"})]
    for _ in range(2):
        found = listed([place], {".png"})
        assert found.paths.tolist() == expected and len(expected) == 16
    both = listed([place / "b", place / "a"], {".png"})
    assert both.counts.tolist() == [8, 4] and both.paths[8] == str(place / "a" / "0.png")


def test_relative_folders(place, monkeypatch):
    monkeypatch.chdir(place)
    for folder in (Path(), Path("a"), Path("b/deep")):
        expected = [str(path) for path in files_below(folder, {".png"})]
        assert listed([folder], {".png"}).paths.tolist() == expected


def test_a_kept_list_is_not_walked_again(place, monkeypatch):
    first = listed([place], {".png"})
    seen = walks(monkeypatch)
    again = listed([place], {".png"})
    assert not seen and again.paths.tolist() == first.paths.tolist()
    assert listed([place], {".jpg"}).paths.tolist() == [] and seen


def add(place):
    Image.new("L", (4, 4)).save(place / "b" / "deep" / "er" / "new.png")


def remove(place):
    (place / "a" / "0.png").unlink()


def rename(place):
    (place / "a" / "0.png").rename(place / "a" / "z.png")


def rename_folder(place):
    (place / "b" / "deep").rename(place / "b" / "depth")


def swap_folders(place):
    (place / "a").rename(place / "c")
    (place / "a-b").rename(place / "a")


def add_and_set_back(place):
    before = (place / "a").stat()
    Image.new("L", (4, 4)).save(place / "a" / "new.png")
    os.utime(place / "a", ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [add, remove, rename, rename_folder, swap_folders, add_and_set_back]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(place, change, monkeypatch):
    before = names(place)
    change(place)
    seen = walks(monkeypatch)
    after = names(place)
    assert seen and after != before
    assert after == [str(path.relative_to(place)) for path in files_below(place, {".png"})]
    names(place)
    assert len(seen) == 1


def test_a_folder_that_has_just_changed_is_not_kept(place, monkeypatch, home):
    monkeypatch.setattr(listing, "QUIET", 2.0)
    names(place)
    assert not home.exists()


def test_small_sets_leave_nothing(place, monkeypatch, home):
    monkeypatch.setattr(listing, "MANY", 17)
    names(place)
    assert not home.exists()


def test_a_kept_link_to_nothing_is_named(place, tmp_path):
    target = tmp_path / "elsewhere.png"
    Image.new("L", (4, 4)).save(target)
    (place / "a" / "link.png").symlink_to(target)
    assert len(names(place)) == 17
    target.unlink()
    with pytest.raises(UserError, match=r"link.png: a link to '.*elsewhere.png', which does not"):
        names(place)


def test_a_damaged_list_is_made_again(place, home, monkeypatch, capsys):
    before = names(place)
    (entry,) = [path for path in (home / "listings").iterdir() if path.is_dir()]
    (entry / "paths.bin").write_bytes(b"/etc/passwd")
    seen = walks(monkeypatch)
    assert names(place) == before and seen
    assert (
        "is damaged ('paths.bin' is not as it was written); it is made again"
        in capsys.readouterr().err
    )


def test_a_cache_that_cannot_be_written(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(names(place)) == len(names(place)) == 16
    assert len(capsys.readouterr().err.splitlines()) == 1


# -- a set -----------------------------------------------------------------------------------------
def test_a_set_from_a_kept_list_is_the_same(place, monkeypatch):
    loader = ImageFolder(size=4, channels=1)
    first = loader.load(place)
    seen = walks(monkeypatch)
    again = loader.load(place)
    assert not seen
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert one.paths.tolist() == other.paths.tolist()
        assert torch.equal(one.targets["label"], other.targets["label"])
    for part, values in fingerprint_of(first).items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(fingerprint_of(again)[part][k]))
            for k, v in values.items()
        )


def test_changed_content_is_checked_again_with_a_kept_list(place):
    loader = ImageFolder(size=4, channels=1)
    loader.load(place)
    (place / "a" / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"2.png.*not a picture that can be read"):
        loader.load(place)


def test_all_broken_pictures_are_counted(place, monkeypatch):
    monkeypatch.setattr(pictures, "MANY", 3)
    for name in ("a/0.png", "a-b/3.png", "b/deep/2.png"):
        (place / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a/0.png and \d more"):
        ImageFolder(size=4, channels=1).load(place)


# -- paths -----------------------------------------------------------------------------------------
def test_path_list():
    texts = ["/a/é.png", "/b/\udcff.png", "", "/c"]
    paths = PathList.of(texts)
    assert list(paths) == texts and paths[-1] == "/c" and len(paths) == 4
    some = paths[np.array([3, 0])]
    assert list(some) == ["/c", "/a/é.png"] and some[1] == "/a/é.png"
    assert list(some[1:]) == ["/a/é.png"] and list(paths[::2]) == [texts[0], ""]
    assert list(PathList.joined([some, paths[:0], paths])) == [*some, *texts]
    assert list(pickle.loads(pickle.dumps(some))) == list(some)
    assert len(some.compact().buffer) == len("/c/a/é.png".encode())
    with pytest.raises(IndexError):
        paths[4]


def test_workers_hold_no_object_for_each_file():
    """Worker processes share memory until it is written to. Each use of a text writes its reference
    count: a list of texts would be copied into every worker, all paths as one piece are not."""

    def objects(files):
        paths = [f"/set/{number}.png" for number in range(files)]
        labels = {"label": torch.zeros(files, dtype=torch.int64)}
        source = FolderSource(paths, labels, {"label": ["a"]}, PictureForm(1, 8, 8))
        dataset = PartDataset(Part.whole(source))
        assert source.paths[files - 1] == paths[-1] and len(source.paths) == files
        return sum(1 for _ in pickletools.genops(pickle.dumps(dataset, protocol=3)))

    assert objects(1000) == objects(300)


def test_status_of_files(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    os.utime(file, ns=(OLD, OLD))
    sizes = PathList.of([file, tmp_path / "gone"]).status()
    assert sizes[:, 0].tolist() == [5, -1] and sizes[0, 1] == OLD


def test_the_signature_of_files_is_that_of_earlier_versions(tmp_path):
    """A run that was begun before resumes: names as text, sizes and the ends of some files."""
    names = ["b.png", "é.png", os.fsdecode(b"\xff.png"), "猫.png"]
    for size, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x" * size)
    paths = [str(tmp_path / name) for name in names]
    source = FolderSource(paths, {}, {}, PictureForm(1, 4, 4), tmp_path)
    for rows in (slice(0, 4), slice(1, 3)):
        entries = "\0".join([*names[rows], *(str(size) for size in range(4)[rows])])
        ends = [b"x" * size for size in range(4)[rows]]
        text = entries.encode("utf-8", "surrogateescape")
        assert source.signature(rows) == b"\0".join([text, *ends])


@pytest.mark.parametrize("place", [slice(2, 7), slice(None, None, 3), slice(5, 2), slice(-3, None)])
def test_slices_of_slices(place):
    paths = PathList.of([f"{number:02d}" for number in range(10)])
    assert list(paths[place]) == [f"{number:02d}" for number in range(10)[place]]
    assert list(paths[1:9][place]) == [f"{number:02d}" for number in range(10)[1:9][place]]
