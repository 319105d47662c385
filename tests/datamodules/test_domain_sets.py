"""Sets of several domains, each from a miniature in the layout of its authors; PACS with real
pictures where they are."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.datamodule import StreamDataModule
from datamodules.sources.domain_sets import PACS, DomainNet, Office31, OfficeHome
from foundation.errors import UserError
from tests.datamodules.test_picture_sets import SIZE, parts, picture, written
from tests.support.text_sets import real


def domain(folder, first, pictures=5, classes=("dog", "horse")):
    for label, name in enumerate(classes):
        for i in range(pictures):
            picture(folder / name / f"pic_{i:03d}.jpg", first + 10 * label + i)


def test_pacs_with_the_published_lists_and_another_domain_whole(tmp_path):
    root = tmp_path / "PACS"
    domain(root / "kfold" / "photo", 0)
    domain(root / "kfold" / "sketch", 100, classes=("horse", "dog"))
    for part, rows in (("train", (0, 1, 2, 3)), ("crossval", (4,))):
        lines = [f"photo/dog/pic_{i:03d}.jpg 1" for i in rows]
        lines += [f"photo/horse/pic_{i:03d}.jpg 2" for i in rows]
        written(root / "splits" / f"photo_{part}_kfold.txt", lines)
    found = parts(PACS("photo", size=SIZE).load(tmp_path))
    assert found["test"] == [(4, 0), (14, 1)] and len(found["train"]) == 8
    made = StreamDataModule(
        PACS("photo", size=SIZE), str(tmp_path), 4, sources={"other": "sketch"}, val_fraction=0
    )
    made.place(0, 1, 10)
    made.setup()
    assert made.sizes["other_test"] == 10
    seen = made.parts["other_test"].fetch(torch.arange(10))
    values = seen["data"][:, 0, 0, 0].tolist()
    labels = seen["targets"]["label"].tolist()
    # horses are the first class of the folder, and the second of the set
    assert {value: label for value, label in zip(values, labels, strict=True) if value in (100, 110)} == {
        100: 1, 110: 0
    }  # fmt: skip


def test_without_lists_a_share_is_held_out(tmp_path):
    domain(tmp_path / "art_painting", 0)
    found = parts(PACS("art_painting", 0.4, SIZE).load(tmp_path))
    assert len(found["train"]) == 6 and len(found["test"]) == 4


def test_office(tmp_path):
    home = tmp_path / "OfficeHomeDataset_10072016"
    domain(home / "Real World", 0, classes=("Alarm_Clock", "TV"))
    domain(home / "Art", 50, classes=("Alarm_Clock", "TV"))
    splits = OfficeHome("real_world", size=SIZE).load(tmp_path)
    assert splits.train.classes == {"label": ["Alarm_Clock", "TV"]} and len(splits.test) == 2
    other, root = OfficeHome(size=SIZE).at("art", tmp_path)
    assert len(other.load(root).test) == 10
    domain(tmp_path / "office31" / "amazon" / "images", 0, classes=("back_pack", "bike"))
    assert len(Office31("amazon", size=SIZE).load(tmp_path).train) == 8


def test_domainnet(tmp_path):
    names = ["real/aircraft_carrier/real_001_000001.jpg", "real/zigzag/real_345_000001.jpg"]
    for value, name in enumerate(names):
        picture(tmp_path / name, value)
    written(tmp_path / "real_train.txt", [f"{names[0]} 0", f"{names[1]} 1"])
    written(tmp_path / "real_test.txt", [f"{names[1]} 1"])
    splits = DomainNet("real", SIZE).load(tmp_path)
    assert parts(splits) == {"train": [(0, 0), (1, 1)], "test": [(1, 1)]}
    assert splits.test.classes == {"label": ["aircraft_carrier", "zigzag"]}
    with pytest.raises(UserError, match="no such file"):
        DomainNet("sketch", SIZE).load(tmp_path)


def test_a_domain_that_is_none_or_not_there(tmp_path):
    domain(tmp_path / "art_painting", 0)
    line = "data.sources.x=sketsh: PACS has no such domain; did you mean 'sketch'?"
    with pytest.raises(UserError) as caught:
        StreamDataModule(PACS(), str(tmp_path), 4, sources={"x": "sketsh"})
    assert str(caught.value) == line
    with pytest.raises(UserError, match="no folder 'photo' of PACS; fetch the whole set"):
        PACS("photo", size=SIZE).load(tmp_path)
    with pytest.raises(UserError, match="no Office-31 there; expected a folder with amazon"):
        Office31().load(tmp_path)


def test_real_pictures_of_pacs(tmp_path):
    folder = real("PACS64") / "PACS64"
    rows = [
        row for row in csv.DictReader((folder / "labels.csv").open()) if row["domain"] == "sketch"
    ]
    sheet = np.asarray(Image.open(folder / "sketch.jpg").convert("RGB"))
    across = sheet.shape[1] // 64
    for row in rows[::20]:
        y, x = (64 * place for place in divmod(int(row["tile"]), across))
        path = tmp_path / "PACS" / "sketch" / row["class"] / row["file"].replace(".jpg", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet[y : y + 64, x : x + 64]).save(path)
    splits = PACS("sketch", size=64).load(tmp_path)
    assert len(splits.train.classes["label"]) == 7
    assert len(splits.train) + len(splits.test) == len(rows[::20]) == 40
    # sketches are black on white
    pixels = splits.train.fetch(torch.arange(len(splits.train))).float()
    assert pixels.mean() > 200 and pixels.std() > 20
