"""Which labels are kept: by a file of published splits, or by their number in all."""

import json

import numpy as np
import pytest
import torch

from datamodules.label_counts import total_label_counts
from datamodules.labeled_file import listed_rows
from datamodules.source import ArraySource
from datamodules.splits import SplitSettings, split_training
from foundation.errors import UserError

NAMES = {"label": ["a", "b", "c"]}
LABELS = torch.tensor([0, 1, 2] * 10)


class Named(ArraySource):
    def name_of(self, row):
        return f"{'abc'[row % 3]}/{row}.png"


def source(kind=ArraySource):
    return kind(torch.zeros(30, 1, 2, 2, dtype=torch.uint8), {"label": LABELS}, NAMES)


def written(folder, name, content):
    path = folder / name
    if name.endswith("npy"):
        np.save(path, content)
    elif name.endswith("json"):
        path.write_text(json.dumps(content))
    else:
        path.write_text(content)
    return str(path)


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", "7\n2\n0\n\n4\n"),
        ("a.npy", np.array([[7, 2], [0, 4]], dtype=np.int32)),
        ("a.json", [7, 2, 0, 4]),
        ("a.json", {"distribution": [0.5, 0.5], "label": [7, 2, 0, 4]}),
        ("a.txt", "b/7.png\nc/2.png\na/0.png\nb/4.png\n"),
    ],
)
def test_positions_and_names(tmp_path, name, content):
    assert listed_rows(written(tmp_path, name, content), source(Named)).tolist() == [0, 2, 4, 7]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "0\n1\n30\n", "lists sample 30; expected 0 to 29"),
        ("a.txt", "0\n1\n2\n1\n", "lists sample 1 twice"),
        ("a.txt", "0\n1\n", "no sample in it is of class 'c'"),
        ("a.txt", "", "lists no sample"),
        ("a.txt", "a/0.png\nb/1.pgn\n", r"no training sample is called 'b/1.pgn'; did you mean"),
        ("a.txt", "-1\n", "no training sample is called '-1'"),
        ("a.npy", np.array([0.0, 1.0]), "holds float64; expected whole numbers"),
        ("a.npy", np.array(["x", {}], dtype=object), "cannot be read"),
        ("a.npy", np.array([-1, 0]), "lists sample -1"),
        ("a.json", {"train": [0]}, "has the keys train; expected a list"),
        ("a.json", [[0], [1]], "holds no list of samples"),
        ("a.json", 3, "holds no list of samples"),
        ("a.pkl", "", "suffix '.pkl' is not a known format"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        listed_rows(written(tmp_path, name, content), source(Named))
    assert "\n" not in str(caught.value) and f"data.labeled={tmp_path}" in str(caught.value)


def test_without_names_positions_are_expected(tmp_path):
    with pytest.raises(UserError, match="have no names; expected positions"):
        listed_rows(written(tmp_path, "a.txt", "x\n"), source())
    with pytest.raises(UserError, match="no such file; its folder does not exist"):
        listed_rows(str(tmp_path / "b" / "a.txt"), source())


def test_listed_samples_are_labeled_and_none_of_them_is_held_out():
    listed = torch.arange(12)
    split = split_training({"label": LABELS}, NAMES, SplitSettings(val_fraction=0.2), listed=listed)
    assert split.pool[split.labeled].tolist() == listed.tolist()
    assert len(split.val) == 3 and split.val.min() >= 12
    assert len(split.pool) == 27


@pytest.mark.parametrize(
    "available, total, proportional, expected",
    [
        ([10, 10, 10], 9, False, [3, 3, 3]),
        ([10, 10, 10], 11, False, [4, 4, 3]),
        ([60, 30, 10], 10, True, [6, 3, 1]),
    ],
)
def test_labels_in_all(available, total, proportional, expected):
    counts = total_label_counts(torch.tensor(available), total, proportional, NAMES["label"])
    assert counts.tolist() == expected


@pytest.mark.parametrize(
    "total, message",
    [(2, "data.labels=2: expected at least 3"), (15, "4 training samples; expected at most 12")],
)
def test_too_few_and_too_many_labels_in_all(total, message):
    with pytest.raises(UserError, match=message):
        total_label_counts(torch.tensor([10, 4, 10]), total, False, NAMES["label"])


def test_a_split_has_as_many_labels_as_asked_for():
    split = split_training({"label": LABELS}, NAMES, SplitSettings(labels=7, val_fraction=0))
    assert LABELS[split.pool[split.labeled]].bincount().tolist() == [3, 2, 2]
