"""The fingerprint of a data set: what changes it, what does not, and which sample is named."""

import time

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.fingerprint import BLOCKS, all_parts, block_size, data_changes, fingerprint_of
from datamodules.source import ArraySource, Source, Splits
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.text import TextSource
from foundation.errors import UserError


def pictures(count=12):
    pixels = torch.arange(count * 9).reshape(count, 1, 3, 3).to(torch.uint8)
    labels = {"label": torch.arange(count) % 3}
    return ArraySource(pixels, labels, {"label": ["a", "b", "c"]})


def texts(count=12):
    labels = {"label": torch.arange(count) % 3}
    words = [f"text number {i}" for i in range(count)]
    return TextSource(words, labels, {"label": ["a", "b", "c"]})


def splits_of(source, val=None):
    return Splits(train=source, test=texts(), val=val)


def lines(old, new):
    """How two sets differ, in words."""
    found = data_changes(fingerprint_of(old), fingerprint_of(new), all_parts(new, {}), "here")
    return [str(change) for change in found]


@pytest.mark.parametrize("make", [pictures, texts])
def test_equal_sets_are_equal(make):
    assert lines(splits_of(make()), splits_of(make())) == []


def test_one_pixel_one_label_one_name_and_one_sample_more():
    pixel, label, name = pictures(), pictures(), pictures()
    pixel.pixels[4, 0, 1, 1] += 1
    label.targets["label"][5] = -1
    name.classes = {"label": ["a", "b", "d"]}
    old = splits_of(pictures())
    as_it_was = "train part: as the run began -> "
    assert lines(old, splits_of(pixel)) == [f"{as_it_was}the first other sample is number 4"]
    assert lines(old, splits_of(label)) == [f"{as_it_was}the first other label is of number 5"]
    assert lines(old, splits_of(name)) == [f"{as_it_was}its classes have other names"]
    (more,) = lines(old, splits_of(pictures(13)))
    assert more == "train part: 12 samples -> 13 samples, the first other one number 12"
    (fewer,) = lines(splits_of(pictures(13)), old)
    assert fewer == "train part: 13 samples -> 12 samples"


def test_a_removed_text_is_noticed_where_it_was():
    old, new = texts(), texts()
    del new.texts[7]
    new.targets = {"label": torch.cat([old.targets["label"][:7], old.targets["label"][8:]])}
    (line,) = lines(splits_of(old), splits_of(new))
    assert line.endswith("12 samples -> 11 samples, the first other one number 7, 'text number 8'")


def test_every_part_counts_and_one_may_be_new():
    old, new = splits_of(texts()), splits_of(texts(), val=texts(5))
    new.test.texts[0] = "another"
    val, test = lines(old, new)
    assert val == "val part: none -> 5 samples"
    assert test.startswith("test part: ") and test.endswith("number 0, 'another'")


def test_of_a_large_set_a_block_is_named():
    old, new = texts(2000), texts(2000)
    new.texts[1003] = "another"
    assert (
        block_size(2000) == 4 and len(fingerprint_of(splits_of(old))["train"]["labels"]) <= BLOCKS
    )
    (line,) = lines(splits_of(old), splits_of(new))
    assert line.endswith("among the 4 from number 1000, 'text number 1000' on")


class Bare(Source):
    """A source of a user's own, without a signature."""

    kind = "image"

    def __init__(self, labels):
        self.targets = {"label": torch.tensor(labels)}
        self.classes = {"label": ["a", "b"]}

    def __len__(self):
        return len(self.targets["label"])


def test_a_source_without_a_signature_is_known_by_its_labels():
    old = splits_of(Bare([0, 1, 0]))
    assert lines(old, splits_of(Bare([0, 1, 0]))) == []
    assert len(lines(old, splits_of(Bare([0, 1, 1])))) == 1
    assert len(lines(old, splits_of(Bare([0, 1])))) == 1


def write_folder(root):
    noise = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = noise.integers(0, 255, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.bmp")
    return root


def test_a_moved_folder_is_the_same_and_a_picture_of_equal_size_is_another_one(tmp_path):
    source = ImageFolder(size=4, check="none")
    first = source.load(write_folder(tmp_path / "one"))
    moved = source.load((tmp_path / "one").rename(tmp_path / "elsewhere"))
    # fingerprints are taken where the files are
    (tmp_path / "one").symlink_to("elsewhere")
    assert lines(first, moved) == []
    kept = fingerprint_of(first)
    replaced = str(moved.train.paths[2])
    Image.new("RGB", (4, 4)).save(replaced)
    (change,) = data_changes(kept, fingerprint_of(moved), all_parts(moved, {}), "here")
    name = replaced.removeprefix(f"{tmp_path}/elsewhere/")
    assert change.part == "train" and change.new.endswith(f"number 2, '{name}'")


@pytest.mark.parametrize(
    "damaged", ["x", [1], {"train": None}, {"train": {"samples": "12"}}, {"train": {"samples": 3}}]
)
def test_a_damaged_fingerprint_is_one_line(damaged):
    new = splits_of(texts())
    with pytest.raises(UserError, match=r"here: its fingerprint of the data is damaged; "):
        data_changes(damaged, fingerprint_of(new), all_parts(new, {}), "here")


def test_none_is_compared_with_a_checkpoint_of_an_older_version():
    new = splits_of(texts())
    assert data_changes(None, fingerprint_of(new), all_parts(new, {}), "here") == []


def test_a_million_samples_take_a_second():
    labels = {"label": torch.zeros(1_000_000, dtype=torch.int64)}
    source = TextSource(["a text of some words"] * 1_000_000, labels, {"label": ["a"]})
    begun = time.process_time()
    kept = fingerprint_of(Splits(train=source, test=texts()))
    assert time.process_time() - begun < 1
    assert sum(value.nbytes for value in kept["train"].values() if torch.is_tensor(value)) < 10_000
