"""Sets as folders: few pictures keep their labels, the others lie in one folder without classes."""

import gzip
import json

import numpy as np
import torch
from PIL import Image

from benchmarks.pages.folders import main
from datamodules.sources.domain_sets import PACS
from datamodules.sources.image_folder import ImageFolder


def test_few_pictures_keep_their_labels(tmp_path):
    for name, count in (("train", 40), ("t10k", 8)):
        pixels = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        for kind, header, content in (("images-idx3", 16, pixels), ("labels-idx1", 8, labels)):
            file = tmp_path / f"{name}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(bytes(header) + content.tobytes()))
    target = tmp_path / "folders"
    assert main(["fashion", str(tmp_path), str(target), "--labels", "3"]) == 0
    splits = ImageFolder(size=28, channels=1).load(str(target))
    labels = splits.train.targets["label"]
    assert labels[labels >= 0].bincount().tolist() == [3, 3, 3, 3] and len(labels) == 40
    assert len(splits.test) == 8
    assert len(list((target / "unlabeled").glob("*.png"))) == 28


def test_reviews_are_written_in_one_form(tmp_path):
    files = {"train": "1\tso good .\n", "test": "0\tbad !\n", "unlabel": "Bad.\nSo good!\n"}
    for part, text in files.items():
        (tmp_path / f"books.{part}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert main(["reviews", str(tmp_path), str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "books"
    assert (folder / "train.tsv").read_text() == files["train"]
    assert (folder / "unlabeled.txt").read_text() == "bad . \nso good ! \n"


def test_sketches_of_pacs_lie_as_its_source_reads_them(tmp_path):
    sheet = np.repeat(np.arange(6, dtype=np.uint8) * 40, 64)  # six tiles in two rows
    rows = np.repeat(sheet.reshape(2, 192), 64, axis=0)
    Image.fromarray(np.stack([rows] * 3, -1)).save(tmp_path / "sketch.jpg", quality=95)
    lines = [f"sketch,{i},{i % 2},{('cat', 'dog')[i % 2]},{i}.jpg" for i in range(5)]
    (tmp_path / "labels.csv").write_text("\n".join(["domain,tile,label,class,file", *lines]))
    assert main(["pacs", str(tmp_path), str(tmp_path / "PACS")]) == 0
    splits = PACS("sketch", test_fraction=0.4, size=64).load(str(tmp_path))
    found = [splits.train, splits.test]
    greys = [part.fetch(torch.arange(len(part))).float().mean((1, 2, 3)) for part in found]
    assert sorted(torch.cat(greys).round().int().tolist()) == [0, 40, 80, 120, 160]
    assert splits.train.classes["label"] == ["cat", "dog"]


def test_a_domain_of_clinc_has_its_intents_alone(tmp_path):
    rows = {"train": [["where am i", "where"], ["pay it", "pay"]], "test": [["pay now", "pay"]]}
    (tmp_path / "data_full.json").write_text(json.dumps(rows))
    (tmp_path / "domains.json").write_text(json.dumps({"bank": ["pay"], "cars": ["where"]}))
    assert main(["clinc", str(tmp_path), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/bank/train.tsv").read_text() == "pay\tpay it\n"
    assert (tmp_path / "out/bank/test.tsv").read_text() == "pay\tpay now\n"
    assert (tmp_path / "out/cars/test.tsv").read_text() == ""
