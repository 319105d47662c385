"""Tables in parquet files: the same rows as in csv and jsonl, and what is wrong with them."""

import sys

import numpy as np
import pytest
from PIL import Image

from datamodules.sources import ImageTable
from datamodules.sources.tables import read_rows
from datamodules.sources.text_file import TextFile
from datamodules.unlabeled import texts_of
from foundation.errors import UserError
from recipes.predict.listing import list_inputs

TEXTS = ["one", "two", "three", "four", "five", "six", "seven"]


def table(path, columns, **options):
    """Write columns by name, lists or pyarrow arrays."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path, **options)
    return path


def texts(path, **settings):
    return TextFile(path.name, test_fraction=0.4, **settings).load(path.parent)


def test_missing_labels_of_every_form_are_no_labels(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    strings = ["a", "b", "a", "b", None, "", "-1"]
    whole = [3, 7, 3, 7, None, None, -1]
    floats = [3.0, 7.0, 3.0, 7.0, float("nan"), None, -1.0]
    for labels in (
        strings,
        whole,
        floats,
        arrow.array(strings).dictionary_encode(),
        arrow.array([None if text is None else text.encode() for text in strings]),
    ):
        path = table(tmp_path / "t.parquet", {"text": TEXTS, "label": labels})
        splits = texts(path)
        names = ["3", "7"] if labels is whole or labels is floats else ["a", "b"]
        assert splits.train.classes["label"] == names
        assert (splits.train.targets["label"] < 0).sum() == 3
        assert len(splits.test) == 2


def test_a_csv_and_a_parquet_of_the_same_rows_are_one_set(tmp_path):
    labels = ["x", "y", "x", "y", "x", "", "y"]
    path = table(tmp_path / "t.parquet", {"text": TEXTS, "label": labels}, row_group_size=2)
    lines = ["text,label", *(",".join(row) for row in zip(TEXTS, labels, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    one, other = texts(path), texts(tmp_path / "t.csv")
    assert one.train.texts == other.train.texts
    assert one.train.targets["label"].tolist() == other.train.targets["label"].tolist()


def test_columns_that_nobody_needs_are_not_read(tmp_path):
    path = table(tmp_path / "t.parquet", {"text": TEXTS, "label": [1] * 7, "image": [b"\xff"] * 7})
    first = next(read_rows(path, "parquet", columns=["label", "text"]))
    assert first == (1, {"text": "one", "label": 1})
    number, everything = list(read_rows(path, "parquet"))[-1]
    assert number == 7 and everything["image"] == b"\xff"
    assert set(next(read_rows(path, "parquet", header=False))[1]) == {"0", "1", "2"}


def test_pictures_by_a_table_and_inputs_of_predict(tmp_path):
    for name in "abcd":
        Image.fromarray(np.full((4, 4), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    paths = [f"{name}.png" for name in "abcd"]
    parts = ["train", "train", "test", "test"]
    path = table(tmp_path / "t.parquet", {"path": paths, "label": [0, 1, 0, 1], "part": parts})
    splits = ImageTable("t.parquet", split_column="part", size=4, check="none").load(tmp_path)
    assert [splits.train.name_of(0), splits.test.name_of(1)] == ["a.png", "d.png"]
    names, items = list_inputs(path, "image", None)
    assert names == paths and items == [tmp_path / name for name in paths]


def test_marks_are_read(tmp_path):
    for name in "abcd":
        Image.fromarray(np.full((4, 4), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    table(
        tmp_path / "t.parquet",
        {
            "path": [f"{name}.png" for name in "abcd"],
            "label": [0, 1, 0, 0],
            "part": ["train", "train", "test", "test"],
            "is_query": [False, False, True, False],
            "is_gallery": [False, False, False, True],
        },
    )
    marks = {"query_column": "is_query", "gallery_column": "is_gallery"}
    loader = ImageTable("t.parquet", split_column="part", size=4, check="none", **marks)
    roles = loader.load(tmp_path).roles["test"]
    assert roles.queries.tolist() == [0] and roles.gallery.tolist() == [1]


def test_texts_without_labels(tmp_path):
    path = table(tmp_path / "more.parquet", {"label": [1, 2], "text": ["a", "b"]})
    assert texts_of(str(path), None) == ["a", "b"]
    alone = table(tmp_path / "alone.parquet", {"sentence": ["c"]})
    assert texts_of(str(alone), None) == ["c"]


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"txt": TEXTS, "label": [0] * 7}, {}, "parquet:1: no column 'text' .*did you mean 'txt'"),
        ({"text": [None, *TEXTS[1:]], "label": [0] * 7}, {}, "parquet:1: text missing .* is empty"),
        ({"text": TEXTS, "label": [{"a": 1}] * 7}, {}, "parquet:1: label missing .* is dict"),
        ({"text": [b"\xff"] * 7, "label": [0] * 7}, {}, "parquet:1: text missing .* is bytes"),
        ({"text": [b"a"] * 7, "label": [0] * 7}, {"encoding": "utf-9"}, "no such encoding"),
        ({"text": [], "label": []}, {}, "no rows"),
        ({"text": TEXTS, "label": [4] * 7}, {}, "every label is '4'"),
        ({"text": TEXTS, "label": [float("inf")] * 7}, {}, "inf, not a class"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, columns, settings, message):
    path = table(tmp_path / "t.parquet", columns)
    with pytest.raises(UserError, match=message) as caught:
        texts(path, **settings)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet(tmp_path):
    path = table(tmp_path / "t.parquet", {"text": TEXTS, "label": [0] * 7})
    raw = path.read_bytes()
    for damaged in (b"text,label\na,b\n", b"", raw[:-9], raw[:20] + bytes(30) + raw[50:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a parquet file that can be read") as caught:
            texts(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"no such file; did you mean 't\.parquet'"):
        texts(tmp_path / "tt.parquet")


def test_without_pyarrow_the_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs pyarrow; pip install 'roux\[parquet\]'"):
        texts(tmp_path / "t.parquet")
