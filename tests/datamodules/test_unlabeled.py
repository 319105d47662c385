"""Samples without labels: a folder `unlabeled`, `data.unlabeled=`, rows with an empty label."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import StreamDataModule
from datamodules.fingerprint import fingerprint_of
from datamodules.joined import Joined
from datamodules.source import ArraySource, Splits
from datamodules.sources import ImageFolder
from datamodules.sources.text_file import TextFile
from datamodules.text.prepare import Tokenize
from datamodules.unlabeled import shared_with_test
from foundation.errors import UserError


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of five pictures, a test part, and three pictures without a class."""
    root = tmp_path / "set"
    for part in ("train", "test"):
        for label, name in enumerate("ab"):
            for i in range(5):
                picture(root / part / name / f"{i}.png", 40 * label + i)
    for i, place in enumerate(("x.png", "deep/y.png", "deep/deeper/z.png")):
        picture(tmp_path / "more" / place, 200 + i)
    return root


def data(source, root=None, **settings):
    made = StreamDataModule(
        source, None if root is None else str(root), 4, val_fraction=0, **settings
    )
    made.request(["unlabeled"])
    made.place(0, 1, 10)
    made.setup()
    return made


def folder(**settings):
    return ImageFolder(size=8, channels=1, check="none", **settings)


@pytest.mark.parametrize("name", ["unlabeled", "Unlabeled", "unlabelled"])
@pytest.mark.parametrize("divided", [True, False])
def test_a_folder_of_the_set_has_no_class(pictures, tmp_path, name, divided):
    root = pictures if divided else pictures / "train"
    (tmp_path / "more").rename(root / name)
    made = data(folder(), root)
    train = made.splits.train
    assert train.classes == {"label": ["a", "b"]}
    assert [name for name in train.paths.tolist() if "/deep" in name]
    assert made.without_label == 3
    assert made.sizes["labeled"] == (10 if divided else 8)
    assert made.sizes["unlabeled"] == made.sizes["labeled"] + 3
    assert made.class_counts().tolist() == ([5, 5] if divided else [4, 4])
    assert folder().preview(root).unlabeled == 3


def test_a_folder_beside_the_set(pictures, tmp_path):
    made = data(folder(), pictures, unlabeled=str(tmp_path / "more"))
    part = made.parts["unlabeled"]
    batch = part.fetch(torch.tensor([12, 0, 10, 6, 11]))
    # sorted by path: deep/deeper/z, deep/y, x
    assert batch["data"][:, 0, 0, 0].tolist() == [200, 0, 202, 41, 201]
    assert batch["targets"]["label"].tolist() == [-1, 0, -1, 1, -1]
    assert made.parts["labeled"].targets["label"].min() == 0 and made.without_label == 3


def test_sets_in_memory_take_folders_too(tmp_path, pictures):
    class Small:
        def info(self):
            return folder().info()

        def load(self, root):
            pixels = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 8, 8)
            targets = {"label": torch.tensor([0, 1, 0, 1, 0, 1])}
            part = ArraySource(pixels, targets, {"label": ["a", "b"]})
            return Splits(part, part)

    made = data(Small(), unlabeled=[str(tmp_path / "more"), str(tmp_path / "more" / "deep")])
    assert made.sizes["unlabeled"] == 6 + 3 + 2
    batch = made.parts["unlabeled"].fetch(torch.tensor([5, 8, 9]))
    assert batch["data"][:, 0, 0, 0].tolist() == [5, 200, 202]


def test_joined_sources_on_a_device_and_in_fingerprints():
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    classes = {"label": ["a", "b"]}
    first = ArraySource(pixels[:4], {"label": torch.tensor([0, 1, 0, 1])}, classes)
    second = ArraySource(pixels[4:], {}, {})
    joined = Joined([first, second])
    assert joined.targets["label"].tolist() == [0, 1, 0, 1, -1, -1, -1]
    assert joined.nbytes == 7 and len(joined) == 7
    rows = torch.tensor([6, 0, 4, 3, 3])
    assert joined.fetch(rows).flatten().tolist() == rows.tolist()
    placed = joined.on(torch.device("cpu"))
    assert placed.fetch_there(rows, rows).flatten().tolist() == rows.tolist()
    assert joined.fetch(rows[:0]).shape == (0, 1, 1, 1)
    before = fingerprint_of(Splits(joined, first))
    pixels = pixels.clone()
    pixels[5] = 9
    other = Joined([first, ArraySource(pixels[4:], {}, {})])
    after = fingerprint_of(Splits(other, first))
    changed = before["train"]["contents"] != after["train"]["contents"]
    assert changed.nonzero().flatten().tolist() == [5]


# -- texts -----------------------------------------------------------------------------------------
ROWS = [("good film", "x"), ("bad film", "y"), ("fine", "x"), ("poor", "y"), ("so so", "")]


def csv(path, rows=ROWS, header="text,label"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def load(tmp_path, unlabeled=None, rows=ROWS):
    source = TextFile(csv(tmp_path / "a.csv", rows), csv(tmp_path / "t.csv", ROWS[:2]))
    return data(source, unlabeled=unlabeled, text=Tokenize(max_length=8))


def test_rows_with_an_empty_label_are_unlabeled(tmp_path):
    made = load(tmp_path)
    assert made.sizes["labeled"] == 4 and made.sizes["unlabeled"] == 5 and made.without_label == 1
    assert made.class_counts().tolist() == [2, 2]
    assert made.source.preview(None).unlabeled == 1


@pytest.mark.parametrize(
    "name, content",
    [
        ("u.txt", "one text\n\n  another  \n"),
        ("u.csv", "text,label\none text,q\nanother,\n"),
        ("u.csv", "review\none text\nanother\n"),
        ("u.jsonl", '{"text": "one text"}\n{"text": "another", "label": 3}\n'),
    ],
)
def test_files_of_texts(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    made = load(tmp_path, str(tmp_path / name))
    assert made.splits.train.texts[5:] == ["one text", "another"]
    assert made.without_label == 3 and made.splits.train.classes == {"label": ["x", "y"]}


# -- wrong -----------------------------------------------------------------------------------------
def test_wrong_places_are_one_line(pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.doc").write_text("text")
    (tmp_path / "b.csv").write_text("review,label\none,q\n")
    (tmp_path / "c.txt").write_text("\n \n")
    images = {
        "mor": "no such folder; did you mean 'more'",
        "empty": "no pictures",
        "a.doc": "is a file",
        "nowhere/x": "no such folder; its folder does not exist",
    }
    texts = {
        "d.csv": "no such file",
        "more": "is a folder",
        "a.doc": "suffix '.doc' is not a known format",
        "b.csv": "no column 'text' for the text",
        "c.txt": "has no texts",
    }
    for place, message in images.items():
        with pytest.raises(UserError, match=message) as caught:
            data(folder(), pictures, unlabeled=str(tmp_path / place))
        assert "\n" not in str(caught.value) and place in str(caught.value)
    for place, message in texts.items():
        with pytest.raises(UserError, match=message) as caught:
            load(tmp_path, str(tmp_path / place))
        assert "\n" not in str(caught.value) and place in str(caught.value)
    (pictures / "unlabeled").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        data(folder(), pictures)


def test_samples_of_the_test_part_are_counted(pictures, tmp_path):
    made = data(folder(), pictures, unlabeled=str(pictures / "test" / "a"))
    assert made.shared_with_test() == (5, str(pictures / "test" / "a" / "0.png"))
    assert shared_with_test(load(tmp_path).splits) == (2, "good film")
