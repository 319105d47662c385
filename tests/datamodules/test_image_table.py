"""Pictures by a table: parts, labels, paths, and what is wrong with them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import StreamDataModule
from datamodules.sources import ImageTable
from foundation.errors import UserError

NAMES = "abcdefgh"


@pytest.fixture
def place(tmp_path):
    """Eight grey pictures `x/a.png` … whose values are 10, 20 …"""
    (tmp_path / "x").mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((4, 4), 10 * (i + 1), np.uint8)).save(
            tmp_path / "x" / f"{name}.png"
        )
    return tmp_path


def written(place, rows, name="set.csv", header="path,label,part"):
    lines = [header, *(",".join(row) for row in rows)] if header else [",".join(r) for r in rows]
    (place / name).write_text("\n".join(lines) + "\n")
    return name


def loaded(place, table, **settings):
    return ImageTable(table, size=4, channels=1, check="none", **settings).load(place)


def values(source):
    return source.fetch(torch.arange(len(source)))[:, 0, 0, 0].tolist()


PARTS = ["train", "Train", "training", "train", "test", "test", "valid", "train"]
ROWS = [(f"x/{name}.png", "01"[i % 2], PARTS[i]) for i, name in enumerate(NAMES)]


def test_a_column_names_the_parts(place):
    splits = loaded(place, written(place, ROWS), split_column="part")
    assert values(splits.train) == [10, 20, 30, 40, 80]
    assert values(splits.test) == [50, 60] and values(splits.val) == [70]
    assert splits.train.targets["label"].tolist() == [0, 1, 0, 1, 1]
    assert splits.train.classes == splits.test.classes == {"label": ["0", "1"]}
    assert splits.train.name_of(1) == "x/b.png"


def test_a_share_of_each_class_is_held_out_the_same_in_every_run(place):
    splits = [loaded(place, written(place, ROWS), test_fraction=0.25) for _ in range(2)]
    assert [len(s.train) for s in splits] == [6, 6] and len(splits[0].test) == 2
    assert values(splits[0].test) == values(splits[1].test)
    assert splits[0].test.targets["label"].tolist() in ([0, 1], [1, 0])


def test_a_table_of_the_test_part_and_a_folder_of_its_own(place):
    first = written(place, [(path[2:], label, "") for path, label, _ in ROWS[:6]])
    second = written(place, [(path[2:], label, "") for path, label, _ in ROWS[6:]], "test.csv")
    splits = loaded(place, first, test_table=second, folder="x")
    assert len(splits.train) == 6 and values(splits.test) == [70, 80]


def test_two_tasks_rows_without_labels_and_jsonl(place):
    rows = [{"image": f"x/{n}.png", "a": i % 2, "b": f"c{i % 3}"} for i, n in enumerate(NAMES)]
    rows[7]["a"] = None
    rows[6] |= {"a": None, "b": None}
    (place / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = ImageTable("set.jsonl", "image", ["a", "b"], size=4, channels=1, check="none")
    splits = table.load(place)
    assert splits.train.classes == {"a": ["0", "1"], "b": ["c0", "c1", "c2"]}
    assert table.preview(place).unlabeled == 1
    assert (splits.train.targets["a"] < 0).sum() == 2
    assert (splits.train.targets["b"] < 0).sum() == 1


def test_positions_of_columns_without_a_header(place):
    name = written(place, ROWS, header="")
    splits = loaded(place, name, path_column=0, label_column=1, split_column=2, header=False)
    assert values(splits.test) == [50, 60]


@pytest.mark.parametrize(
    "rows, settings, message",
    [
        (
            [*ROWS, ("x/z.png", "0", "train")],
            {},
            r"1 of its pictures are not there: '.*z.png' \(line 10\)",
        ),
        ([(f"y/{n}", "0", "test") for n in "abcde"], {}, "no row is of the train part"),
        (
            [*ROWS, ("x/a.png", "0", "tset")],
            {},
            r"csv:10: 'tset' is no part of a set; did you mean",
        ),
        ([*ROWS, ("x/a.png", "7", "test")], {}, "csv:10: class '7' is not in the training rows"),
        (ROWS[:4], {}, r"no row is of the test part \(column 'part'\)"),
        ([*ROWS, ("", "1", "train")], {}, "csv:10: path missing"),
        ([*ROWS, ("x/a.png", "", "train")], {"unlabeled": False}, "csv:10: label missing"),
        (ROWS, {"path_column": "file"}, "no column 'file' for the path"),
        ([("x/a.png", "1", "train"), ("x/b.png", "1", "test")], {}, "every label is '1'"),
    ],
)
def test_what_is_wrong_is_one_line(place, rows, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        loaded(place, written(place, rows), split_column="part", **settings)
    assert "\n" not in str(caught.value)


def test_many_lost_files_are_counted_and_two_test_parts_refused(place):
    rows = [(f"x/{n}{n}.png", "01"[i % 2], "train") for i, n in enumerate(NAMES)]
    with pytest.raises(UserError, match=r"8 of its pictures are not there: .* and 5 more"):
        loaded(place, written(place, rows))
    with pytest.raises(UserError, match="names the test part too; leave one out"):
        ImageTable("a.csv", split_column="part", test_table="b.csv")


# -- queries and gallery ---------------------------------------------------------------------------
SEARCHED = [
    ("x/a.png", "0", "train", "", ""),
    ("x/b.png", "1", "train", "", ""),
    ("x/c.png", "0", "train", "0", "0"),
    ("x/d.png", "1", "train", "", ""),
    ("x/e.png", "7", "test", "1", "0"),
    ("x/f.png", "7", "test", "0", "True"),
    ("x/g.png", "9", "test", "1.0", "yes"),
    ("x/h.png", "9", "test", "0", "1"),
]
MARKS = {"query_column": "is_query", "gallery_column": "is_gallery"}


def searched(place, rows=SEARCHED, **settings):
    table = written(place, rows, header="path,label,part,is_query,is_gallery")
    return loaded(place, table, **{"split_column": "part", "disjoint": True} | MARKS | settings)


def test_queries_have_a_gallery_of_other_classes_than_training(place):
    splits = searched(place)
    assert splits.train.classes == {"label": ["0", "1"]}
    assert splits.test.classes == {"label": ["7", "9"]}
    roles = splits.roles["test"]
    assert roles.queries.tolist() == [0, 2] and roles.gallery.tolist() == [1, 2, 3]


def test_both_are_parts_of_a_run(place):
    table = written(place, SEARCHED, header="path,label,part,is_query,is_gallery")
    source = ImageTable(
        table, size=4, channels=1, check="none", split_column="part", disjoint=True, **MARKS
    )
    data = StreamDataModule(source, str(place), 2, val_fraction=0)
    data.place(0, 1, 3)
    data.setup()
    assert data.evaluated("test") == ["test_gallery", "test"]
    assert data.parts["test"].index.tolist() == [0, 2]
    gallery = data.parts["test_gallery"].fetch(torch.arange(3))
    assert gallery["index"].tolist() == [1, 2, 3]
    assert gallery["data"][:, 0, 0, 0].tolist() == [60, 70, 80]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gallery_column": None}, r"data\.source\.query_column: needs data\.source\.gallery_col"),
        ({"query_column": None}, r"data\.source\.gallery_column: needs data\.source\.query_col"),
        ({"split_column": None}, r"data\.source\.disjoint=True: needs a test part"),
        ({"disjoint": False}, r"class '7' is not in the training rows"),
        ({"query_column": "is_qury"}, r"no column 'is_qury' for the mark; .*'is_query'"),
        ({"gallery_column": "label"}, r"column 'label' is '?7'?; expected true or false"),
    ],
)
def test_mistakes_of_roles(place, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        searched(place, **settings)
    assert "\n" not in str(caught.value)


def test_a_part_without_a_query(place):
    rows = [(*row[:3], "0", row[4]) for row in SEARCHED]
    with pytest.raises(UserError, match="no row of the test part is marked in column 'is_query'"):
        searched(place, rows)


# -- cameras ---------------------------------------------------------------------------------------
TAKEN = [
    (*row, camera)
    for row, camera in zip(SEARCHED, ["", "", "", "", "b", "a", "c", "b"], strict=True)
]


def taken(place, rows=TAKEN, **settings):
    table = written(place, rows, header="path,label,part,is_query,is_gallery,cam")
    chosen = {"split_column": "part", "disjoint": True, "camera_column": "cam"}
    return loaded(place, table, **chosen | MARKS | settings)


def test_cameras_come_with_the_samples_that_are_evaluated(place):
    roles = taken(place).roles["test"]
    assert roles.cameras.tolist() == [1, 0, 2, 1]
    table = written(place, TAKEN, header="path,label,part,is_query,is_gallery,cam")
    source = ImageTable(
        table,
        size=4,
        channels=1,
        check="none",
        split_column="part",
        camera_column="cam",
        disjoint=True,
        **MARKS,
    )
    data = StreamDataModule(source, str(place), 2, val_fraction=0)
    data.place(0, 1, 3)
    data.setup()
    (gallery,) = data.evaluation_loader("test_gallery")
    assert gallery["cameras"].tolist() == [0, 2, 1] and gallery["index"].tolist() == [1, 2, 3]
    (queries,) = data.evaluation_loader("test")
    assert queries["cameras"].tolist() == [1, 2] and list(queries["targets"]) == ["label"]
    assert "cameras" not in next(iter(data.train_dataloader()))["labeled"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"query_column": None, "gallery_column": None},
            r"camera_column=cam: needs data\.source\.query",
        ),
        ({"camera_column": "kam"}, r"no column 'kam' for the camera; .*'cam'"),
    ],
)
def test_mistakes_of_cameras(place, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        taken(place, **settings)
    assert "\n" not in str(caught.value)


def test_a_query_without_a_camera(place):
    rows = [(*row[:5], "") if i == 6 else row for i, row in enumerate(TAKEN)]
    with pytest.raises(UserError, match=r"set\.csv:8: camera missing \(column 'cam' is empty\)"):
        taken(place, rows)
