"""Sets beside the first, `data.sources.NAME=PLACE`: their parts, classes, mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import StreamDataModule
from datamodules.samplers import ShareSampler
from datamodules.sources import ImageFolder
from datamodules.sources.digits import Digits
from datamodules.sources.text_file import TextFile
from datamodules.streams import StreamRequest
from datamodules.text.prepare import Tokenize
from foundation.errors import UserError


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


@pytest.fixture
def sets(tmp_path):
    """`photo` with the classes a, b, c, divided; `sketch` with c and a, undivided."""
    for part in ("train", "test"):
        for label, name in enumerate("abc"):
            for i in range(5):
                picture(tmp_path / "photo" / part / name / f"{i}.png", 40 * label + i)
    for name, value in (("a", 10), ("c", 90)):
        for i in range(3):
            picture(tmp_path / "sketch" / name / f"{i}.png", value + i)
    return tmp_path


def folder(**settings):
    return ImageFolder(size=8, channels=1, check="none", **settings)


def data(root, sources, source=None, streams=("unlabeled",), **settings):
    made = StreamDataModule(
        source or folder(),
        None if root is None else str(root),
        4,
        val_fraction=0,
        sources=sources,
        **settings,
    )
    made.request(streams)
    made.place(0, 1, 10)
    made.setup()
    return made


def test_a_place_is_read_as_the_set_itself_is(sets):
    made = data(sets / "photo", {"sketch": str(sets / "sketch")})
    assert made.sizes["sketch"] == made.sizes["sketch_test"] == 6
    assert made.evaluated("test") == ["sketch_test", "test"] and made.evaluated("val") == []
    # c is the second class there, and the third of the first set
    seen = made.parts["sketch_test"].fetch(torch.arange(6))
    assert sorted(seen["targets"]["label"].tolist()) == [0, 0, 0, 2, 2, 2]
    values = seen["data"].flatten(1)[:, 0].tolist()
    by_value = dict(zip(values, seen["targets"]["label"].tolist(), strict=True))
    assert by_value == {10: 0, 11: 0, 12: 0, 90: 2, 91: 2, 92: 2}


def test_a_divided_set_keeps_its_parts(sets):
    for part in ("train", "val", "test"):
        for name in "ab":
            picture(sets / "other" / part / name / f"{part}.png", 7)
    made = data(sets / "photo", {"other": str(sets / "other")})
    assert [made.sizes[f"other{part}"] for part in ("", "_val", "_test")] == [2, 2, 2]
    assert made.evaluated("val") == ["other_val"]
    assert made.transductive == []


def test_training_without_the_labels_of_a_further_set(sets):
    made = data(sets / "photo", {"sketch": str(sets / "sketch")}, unlabeled=["sketch"])
    assert made.sizes["labeled"] == 15 and made.sizes["unlabeled"] == 21
    assert made.without_label == 6
    pool = made.parts["unlabeled"].fetch(torch.arange(21))
    assert sorted(pool["data"].flatten(1)[:, 0].tolist())[-3:] == [90, 91, 92]
    assert made.transductive == ["sketch"]


def test_the_fingerprint_has_all_sets(sets):
    before = data(sets / "photo", {"sketch": str(sets / "sketch")}).fingerprint()
    assert list(before) == ["train", "test", "sketch/train", "sketch/test"]
    picture(sets / "sketch" / "a" / "0.png", 250)
    after = data(sets / "photo", {"sketch": str(sets / "sketch")}).fingerprint()
    same = {
        part: bool(torch.equal(before[part]["contents"], after[part]["contents"]))
        for part in before
    }
    assert same == {"train": True, "test": True, "sketch/train": False, "sketch/test": False}


def test_texts_share_the_tokenizer(tmp_path):
    def rows(name, *lines):
        (tmp_path / name).write_text("text,label\n" + "\n".join(lines) + "\n")
        return str(tmp_path / name)

    first = rows("a.csv", "a good film,x", "a bad book,y", "one good song,x", "one bad day,y")
    other = rows("b.csv", "a song about words,x", "nothing known,")
    made = data(
        None,
        {"other": other},
        TextFile(first),
        text=Tokenize("train", max_length=8, vocab_size=100),
    )
    assert made.sizes["other"] == 2 and made.sizes["other_test"] == 1
    other_source = made.parts["other_test"].source
    assert other_source.codec is made.codec and made.splits.train.codec is made.codec
    assert other_source.words.shape == (2, 4)


def test_own_files_for_validation_and_test(tmp_path):
    def rows(name, *lines):
        (tmp_path / name).write_text("text,label\n" + "\n".join(lines) + "\n")
        return name

    files = {
        "train_file": rows("train.csv", "a,x", "b,y"),
        "val_file": rows("dev.csv", "c,y"),
        "test_file": rows("test.csv", "d,x", "e,y"),
    }
    splits = TextFile(**files).load(tmp_path)
    assert [part.texts for part in (splits.train, splits.val, splits.test)] == [
        ["a", "b"],
        ["c"],
        ["d", "e"],
    ]
    rows("dev.csv", "c,z")
    with pytest.raises(UserError, match=r"dev\.csv:2: class 'z' is not in .*train\.csv"):
        TextFile(**files).load(tmp_path)


def test_a_stream_of_its_own(sets):
    made = StreamDataModule(
        folder(), str(sets / "photo"), 4, sources={"sketch": str(sets / "sketch")}
    )
    made.request(["target"], own={"target": StreamRequest("sketch", per_labeled=2)})
    assert made.batch_sizes() == {"labeled": 4, "target": 8}
    made.place(0, 1, 10)
    made.setup()
    batch = next(iter(made.train_dataloader()))
    assert len(batch["target"]["index"]) == 8
    assert set(batch["target"]["data"].flatten(1)[:, 0].tolist()) <= {10, 11, 12, 90, 91, 92}


def test_every_rank_has_as_many_batches_of_a_small_part():
    shares = [list(ShareSampler(3, 2, rank, 4)) for rank in range(4)]
    assert [len(batches) for batches in shares] == [1, 1, 1, 1]
    assert [row for batches in shares for rows in batches for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("test", "x", r"data\.sources: 'test' cannot name a set; expected a word"),
        ("two words", "x", r"data\.sources: 'two words' cannot name a set"),
        ("a_test", "x", r"data\.sources: 'a_test' cannot name a set"),
        ("other", 3, r"data\.sources\.other: found '3'; expected a folder or file"),
        ("other", {"root": "x"}, r"data\.sources\.other: found .*; expected a folder or file"),
        ("other", {"source": Digits(), "rot": "x"}, r"data\.sources\.other\.rot: .*'root'"),
        ("other", "nowhere", r"data\.sources\.other: .*nowhere"),
        ("other", Digits(), r"data\.sources\.other: has images of 1×8×8.*1×9×9"),
    ],
)
def test_mistakes_are_one_line(sets, name, value, message):
    size = 9 if isinstance(value, Digits) else 8
    source = ImageFolder(size=size, channels=1, check="none")
    with pytest.raises(UserError, match=message) as caught:
        data(sets / "photo", {name: value}, source)
    assert "\n" not in str(caught.value)


def test_a_class_that_the_first_set_lacks(sets):
    picture(sets / "sketch" / "d" / "0.png", 1)
    with pytest.raises(UserError, match=r"data\.sources\.sketch: class 'd' is not among those"):
        data(sets / "photo", {"sketch": str(sets / "sketch")})


def test_a_set_at_one_place_only():
    with pytest.raises(UserError, match=r"data\.sources\.other=x: Digits is at one place only"):
        data(None, {"other": "x"}, Digits())
