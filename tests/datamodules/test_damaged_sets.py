"""Damaged and foreign files of standard sets are one line that names them, before training."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.checks import load_checked
from datamodules.datamodule import StreamDataModule
from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources import CIFAR10, MNIST, Omniglot
from datamodules.sources.docstrings import docstrings
from datamodules.sources.idx import read_idx
from datamodules.sources.text import TextSource
from foundation.errors import UserError
from tests.datamodules.test_sources import write_idx, write_set, write_sheets


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refused(load, words):
    with pytest.raises(UserError, match=words) as caught:
        load()
    assert "\n" not in str(caught.value)


# -- idx -------------------------------------------------------------------------------------------
LABELS = np.arange(20) % 10
IDX = {
    "a label beyond the classes": ("labels-idx1", LABELS + 3, "sample 7 has label 10; .* 0 to 9"),
    "labels of another rank": ("labels-idx1", LABELS[:, None], r"labels are uint8 \[20, 1\]"),
    "images of another size": ("images-idx3", np.zeros((20, 32, 32)), "an array of 20×32×32; .*28"),
    "images of another rank": ("images-idx3", np.zeros((20, 28)), "an array of 20×28; .*28×28"),
    "labels for images": ("images-idx3", LABELS, "an array of 20; .*28×28"),
    "images in color": ("images-idx3", np.zeros((20, 28, 28, 3)), "an array of 20×28×28×3"),
}


@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize("case", IDX)
def test_foreign_idx_files_are_named(tmp_path, case, part):
    kind, values, words = IDX[case]
    write_set(tmp_path / "set", "")
    path = tmp_path / "set" / f"{part}-{kind}-ubyte"
    write_idx(path, values)
    refused(lambda: MNIST().load(tmp_path / "set"), rf"{path.name}: {words}")


def test_an_idx_header_whose_product_overflows(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\0\0\x08\x04" + b"\0\x01\0\0" * 4)
    refused(lambda: read_idx(path), "has 0 values, its header says")


def test_damaged_files_in_the_cache_are_named_too(tmp_path):
    folder = tmp_path / "cache" / "roux" / "MNIST" / "raw"
    write_set(folder, "")
    (folder / "train-images-idx3-ubyte").write_bytes(b"<html>")
    refused(lambda: MNIST().load(None), "train-images-idx3-ubyte: not an idx file")


# -- CIFAR -----------------------------------------------------------------------------------------
CLASSES = np.array([f"c{i}" for i in range(10)])
GOOD = {"train": LABELS.repeat(5), "test": LABELS.repeat(5), "classes": CLASSES}
ARRAYS = {
    "two-dimensional labels": ({"train": np.zeros((100, 1), int)}, r"labels are int64 \[100, 1\]"),
    "labels that are no numbers": ({"test": np.full(100, "a")}, "labels are <U1"),
    "labels with a fraction": ({"train": np.zeros(100)}, "labels are float64"),
    "a label beyond the classes": ({"test": GOOD["test"] + 1}, "'test': sample 45 has label 10"),
    "a negative label": ({"train": GOOD["train"] - 1}, "'train': sample 0 has label -1"),
    "one name": ({"classes": np.array("a")}, "'classes' should be a list"),
    "names twice": ({"classes": np.full(10, "a")}, "'classes' should be a list of different"),
}


@pytest.fixture
def sheets(tmp_path):
    folder = tmp_path / "cifar10_jpeg95"
    write_sheets(folder, {"train": 1, "test": 1})
    return folder


@pytest.mark.parametrize("case", ARRAYS)
def test_foreign_labels_of_sheets_are_named(sheets, case):
    changed, words = ARRAYS[case]
    np.savez(sheets / "labels.npz", **(GOOD | changed))
    refused(lambda: CIFAR10().load(sheets), rf"labels\.npz.*{words}")


def bad_checksum(path):
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        raw[archive.getinfo("train.npy").header_offset + 200] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "no archive": lambda path: path.write_bytes(b"<html>moved</html>"),
    "of objects": lambda path: np.savez(path, **(GOOD | {"train": np.array([{}] * 100)})),
    "without classes": lambda path: np.savez(path, train=GOOD["train"]),
    "of another checksum": bad_checksum,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_labels_of_sheets_are_named(sheets, case):
    DAMAGE[case](sheets / "labels.npz")
    refused(lambda: CIFAR10().load(sheets), r"labels\.npz: cannot be read")


# -- others ----------------------------------------------------------------------------------------
def test_resource_forks_in_omniglot_are_no_pictures(tmp_path):
    for part in ("images_background", "images_evaluation"):
        for character in ("A/1", "B/1"):
            folder = tmp_path / part / character
            folder.mkdir(parents=True)
            Image.new("1", (105, 105)).save(folder / "0001_01.png")
            (folder / "._0001_01.png").write_bytes(b"resource fork")
    assert len(Omniglot(val_alphabets=0).load(tmp_path).train) == 2
    (tmp_path / "images_background" / "A" / "1" / "0001_01.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(lambda: Omniglot().load(tmp_path), "images_background: has a picture that cannot")


def test_pipes_are_refused_and_not_waited_for(tmp_path, sheets, impatient):
    for path in (sheets / "train_00.png", tmp_path / "a.gz", tmp_path / "module.py"):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    refused(lambda: CIFAR10().load(sheets), r"train_00\.png: cannot be read \(a pipe")
    refused(lambda: read_idx(tmp_path / "a.gz"), r"a\.gz: cannot be read \(a pipe")
    assert docstrings(tmp_path / "module.py") == []


def test_a_module_that_is_a_link_to_nothing_has_no_docstrings(tmp_path):
    (tmp_path / "module.py").symlink_to(tmp_path / "gone.py")
    assert docstrings(tmp_path / "module.py") == []


# -- sets of others' loaders -----------------------------------------------------------------------
def images(count=4, side=8, labels=(0, 1), names=("a", "b")):
    targets = torch.tensor([labels[i % len(labels)] for i in range(count)], dtype=torch.int64)
    pixels = torch.zeros(count, 1, side, side, dtype=torch.uint8)
    return ArraySource(pixels, {"label": targets}, {"label": list(names)})


class Own:
    """A loader of the user's own."""

    def __init__(self, train, test, val=None):
        self.splits = Splits(train, test, val)

    def info(self):
        return DataInfo("image", {"label": 2}, (1, 8, 8))

    def load(self, root):
        return self.splits


FOREIGN = {
    "label of test": ({"test": images(labels=(0, 2))}, "test part, task 'label': sample 1 has lab"),
    "label of val": ({"val": images(labels=(1, -2))}, "val part, task 'label': sample 1 has label"),
    "label of train": ({"train": images(labels=(0, 1, 2))}, "sample 2 has label 2; expected 0 to"),
    "size of test": ({"test": images(side=9)}, "images of the test part are 1×9×9; .* 1×8×8"),
    "number of classes": (
        {part: images(names=("a", "b", "c")) for part in ("train", "val", "test")},
        "task 'label' has 3 classes; expected 2",
    ),
    "names twice": ({"train": images(names=("a", "a"))}, "two classes .* are called 'a'"),
    "an empty name": ({"train": images(names=("a", " "))}, "a class of task 'label' has no name"),
    "no test": ({"test": images(0)}, "the test part has no samples"),
    "classes of test": ({"test": images(names=("b", "a"))}, "the test part has other classes"),
    "name": ({"train": images(names=("a", "\udce9"))}, r"class '\\udce9' .* is not valid Unicode"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_sets_that_do_not_fit_are_refused_before_training(case):
    changed, words = FOREIGN[case]
    loader = Own(**({"train": images(), "test": images(), "val": images()} | changed))
    refused(StreamDataModule(loader).setup, rf"^data: .*{words}")


def test_samples_without_a_label_are_allowed():
    splits = load_checked(Own(images(6, labels=(0, 1, -1)), images(labels=(1, -1))), None)
    assert splits.test.targets["label"].tolist() == [1, -1, 1, -1]


def test_texts_are_checked_likewise():
    class Texts(Own):
        def info(self):
            return DataInfo("text", {"label": 2})

    def texts(labels):
        return TextSource(
            ["x"] * len(labels), {"label": torch.tensor(labels)}, {"label": ["a", "b"]}
        )

    refused(lambda: load_checked(Texts(texts([0, 1]), texts([0, 2])), None), "sample 1 has label 2")
