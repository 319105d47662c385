"""Sets of Hugging Face `datasets` from folders: columns, splits, labels, pictures, mistakes."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import StreamDataModule
from datamodules.sources.hub import HubImages, HubTexts
from foundation.errors import UserError


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The package without a network, which writes to a folder of the test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


def png(value, size=(6, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def pictures(library, values, labels, **more):
    features = {"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])}
    columns = {"image": [png(value) for value in values], "label": labels}
    kinds = {name: library.Value("string") for name in more}
    return library.Dataset.from_dict(columns | more, library.Features(features | kinds))


def saved(library, place, **splits):
    library.DatasetDict(splits).save_to_disk(str(place))
    return str(place)


def images(name, **settings):
    return HubImages(name, size=4, **settings)


def greys(source):
    return source.fetch(torch.arange(len(source)))[:, 0, 0, 0].tolist()


def test_pictures_of_a_saved_folder(library, tmp_path):
    train = pictures(library, [10, 20, 30, 40], [0, 1, 0, -1])
    test = pictures(library, [50, 60], [1, 0])
    place = saved(library, tmp_path / "set", train=train, validation=test, test=test)
    splits = images(place).load()
    assert greys(splits.train) == [10, 20, 30, 40] and greys(splits.test) == [50, 60]
    assert splits.train.targets["label"].tolist() == [0, 1, 0, -1]
    assert splits.train.classes == splits.test.classes == {"label": ["cat", "dog"]}
    assert len(splits.val) == 2
    assert images("set").load(tmp_path).train.fetch(torch.tensor([1])).shape == (1, 3, 4, 4)
    assert images(place).preview().unlabeled == 1
    assert images(place, val_split=None).load().val is None


def test_a_share_is_held_out_where_there_is_no_test_split(library, tmp_path):
    whole = pictures(library, range(0, 100, 10), [0, 1] * 5)
    whole.save_to_disk(str(tmp_path / "one"))
    splits = [images(str(tmp_path / "one")).load() for _ in range(2)]
    assert [len(splits[0].train), len(splits[0].test)] == [8, 2]
    assert greys(splits[0].test) == greys(splits[1].test)
    assert sorted(greys(splits[0].train) + greys(splits[0].test)) == list(range(0, 100, 10))
    assert splits[0].train.signature(slice(0, 8)) == splits[1].train.signature(slice(0, 8))
    other, root = images("any").at(str(tmp_path / "one"))
    assert len(other.load(root).train) == len(other.load(root).test) == 10


def test_an_unlabeled_split_and_another_one_for_test(library, tmp_path):
    train = pictures(library, [10, 20], [0, 1])
    more = pictures(library, [30, 40, 50], [0, 1, 1])
    place = saved(library, tmp_path / "set", train=train, unsupervised=more, dev=train)
    splits = images(place, unlabeled_split="unsupervised", test_split="dev", val_split=None).load()
    assert splits.train.targets["label"].tolist() == [0, 1, -1, -1, -1]
    assert greys(splits.train) == [10, 20, 30, 40, 50] and len(splits.test) == 2


def test_workers_decode_the_same_pictures(library, tmp_path):
    place = saved(library, tmp_path / "set", train=pictures(library, range(8), [0, 1] * 4))

    def first(workers):
        data = StreamDataModule(images(place), None, 4, val_fraction=0, num_workers=workers)
        data.place(0, 1, 3)
        data.setup()
        return next(iter(data.train_dataloader()))["labeled"]["data"]

    assert torch.equal(first(0), first(2))


def test_texts_and_their_labels_in_every_form(library, tmp_path):
    columns = {
        "sentence": ["a", "b", "c", "d", "e", "f"],
        "idx": [0, 1, 2, 3, 4, 5],
        "label": [7.0, 3.0, 7.0, 3.0, None, float("nan")],
        "stars": ["x", "y", "x", "y", "x", ""],
    }
    library.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    one = HubTexts(str(tmp_path / "set"), text_column="sentence").load()
    assert one.train.classes == {"label": ["3", "7"]}
    assert (one.train.targets["label"] < 0).sum() == 2 and len(one.test) == 2
    two = HubTexts(
        str(tmp_path / "set"), text_column="sentence", label_column=["label", "stars"]
    ).load()
    assert two.train.classes["stars"] == ["x", "y"]
    assert set(two.train.texts + two.test.texts) == set("abcdef")


def test_a_folder_of_files_that_the_package_reads(library, tmp_path):
    lines = ["text,label", *(f"text {i},{'ab'[i % 2]}" for i in range(6))]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.csv").write_text("\n".join(lines))
    splits = HubTexts(str(tmp_path / "files"), label_column="label", text_column="text").load()
    assert splits.train.classes == {"label": ["a", "b"]} and len(splits.train) == 4


def test_what_is_wrong_is_one_line(library, tmp_path):
    train = pictures(library, [1, 2], [0, 1], caption=["a", "b"])
    blind = pictures(library, [1, 2], [-1, -1], caption=["a", "b"])
    place = saved(library, tmp_path / "set", train=train, test=blind)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('code of the set was run')")
    (tmp_path / "file.csv").write_text("")
    cases = [
        (images(place), "split 'test': none of its samples has a label"),
        (images(place, test_split="tset"), "test_split=tset: '.*' has no such split; did you mean"),
        (images(place, image_column="caption"), "caption: is of type string; expected an Image"),
        (images(place, label_column="labl"), "label_column=labl: no such column; did you mean"),
        (HubTexts(place, label_column=[]), "name each column once"),
        (images(str(tmp_path / "broken")), "cannot be read as a data set"),
        (images(str(tmp_path / "script")), "cannot be read as a data set"),
        (images(str(tmp_path / "sett")), "no such folder; did you mean 'set'"),
        (images(str(tmp_path / "file.csv")), "is a file; expected a folder"),
        (images("nobody/nothing"), "no such folder, and the Hugging Face hub does not give it"),
    ]
    for loader, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            loader.load()
        assert "\n" not in str(caught.value), message


def test_columns_that_cannot_be_found_are_listed(library, tmp_path):
    pairs = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 1]}
    library.Dataset.from_dict(pairs).save_to_disk(str(tmp_path / "pairs"))
    with pytest.raises(UserError, match=r"several columns are a string; the columns are premise"):
        HubTexts(str(tmp_path / "pairs")).load()
    with pytest.raises(UserError, match=r"no column is an Image; the columns are premise \(string"):
        images(str(tmp_path / "pairs"), test_fraction=0.5).load()


def test_files_that_are_cut_and_two_columns_of_classes(library, tmp_path):
    train = pictures(library, range(50), [0, 1] * 25)
    place = saved(library, tmp_path / "set", train=train)
    other = saved(
        library,
        tmp_path / "two",
        train=train.rename_column("label", "coarse")
        .add_column("fine", [0, 1] * 25)
        .cast_column("fine", library.ClassLabel(names=["a", "b"])),
    )
    with pytest.raises(
        UserError, match=r"several columns are a ClassLabel; the columns are .*fine"
    ):
        images(other).load()
    (path,) = (tmp_path / "set" / "train").glob("*.arrow")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read") as caught:
        images(place).load().train.fetch(torch.arange(40))
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_is_named(library, tmp_path):
    train = pictures(library, [1, 2], [0, 1])
    rows = {"image": [png(1), {"bytes": b"no picture", "path": "b.png"}], "label": [0, 1]}
    broken = library.Dataset.from_dict(rows, train.features)
    source = images(saved(library, tmp_path / "set", train=broken, test=train)).load().train
    with pytest.raises(UserError, match=r"row 1 b\.png: not a picture that can be read"):
        source.fetch(torch.tensor([1]))
    assert np.asarray(source.fetch(torch.tensor([0]))).max() == 1


def test_without_the_package_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; pip install 'roux\[hub\]'"):
        images(str(tmp_path)).load()
