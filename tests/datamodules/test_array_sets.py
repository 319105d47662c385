"""SVHN, STL-10 and CIFAR-10N: miniatures in the layout of their authors, and the real labels."""

import zipfile

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datamodules.datamodule import StreamDataModule
from datamodules.sources.cifar10n import CIFAR10N, read_labels
from datamodules.sources.stl10 import STL10
from datamodules.sources.svhn import SVHN
from foundation.errors import UserError
from tests.support.text_sets import real


def svhn_file(path, digits, first=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.zeros((32, 32, 3, len(digits)), np.uint8)
    images[3, 5] = np.arange(first, first + len(digits))
    savemat(path, {"X": images, "y": np.array(digits, np.uint8).reshape(-1, 1)})


@pytest.fixture
def house_numbers(tmp_path):
    svhn_file(tmp_path / "svhn" / "train_32x32.mat", [1, 10, 9])
    svhn_file(tmp_path / "svhn" / "test_32x32.mat", [10, 2], 100)
    svhn_file(tmp_path / "svhn" / "extra_32x32.mat", [5, 6], 200)
    return tmp_path


def test_svhn_counts_ten_as_zero(house_numbers):
    splits = SVHN().load(house_numbers)
    assert splits.train.targets["label"].tolist() == [1, 0, 9]
    assert splits.train.pixels[:, 1, 3, 5].tolist() == [0, 1, 2]
    assert splits.test.targets["label"].tolist() == [0, 2]


def test_the_extra_pictures_of_svhn(house_numbers):
    labeled = SVHN("labeled").load(house_numbers / "svhn").train
    assert labeled.targets["label"].tolist() == [1, 0, 9, 5, 6]
    blind = SVHN("unlabeled").load(house_numbers).train
    assert blind.targets["label"].tolist() == [1, 0, 9, -1, -1]
    assert blind.fetch(torch.tensor([4]))[0, 1, 3, 5] == 201


def test_a_damaged_file_of_svhn(house_numbers):
    path = house_numbers / "svhn" / "test_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 1, 2), np.uint8), "y": [1, 2]})
    with pytest.raises(UserError, match="an array of 32×32×2; expected 32×32×3×N"):
        SVHN().load(house_numbers)
    path.write_bytes(b"no mat file")
    with pytest.raises(UserError, match=r"test_32x32.mat: cannot be read .*the variables X, y"):
        SVHN().load(house_numbers)


@pytest.fixture
def objects(tmp_path):
    """Pictures of one level each, but for a bright pixel in column 5 of row 2."""
    root = tmp_path / "stl10_binary"
    root.mkdir()
    for part, count, first in (("train", 20, 0), ("test", 10, 100), ("unlabeled", 5, 200)):
        stored = np.repeat(np.arange(first, first + count, dtype=np.uint8), 3 * 96 * 96)
        stored = stored.reshape(count, 3, 96, 96)
        stored[:, :, 5, 2] = 255  # columns come first
        stored.tofile(root / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count, dtype=np.uint8) % 10 + 1).tofile(root / f"{part}_y.bin")
    (root / "class_names.txt").write_text("\n".join("abcdefghij") + "\n")
    folds = [" ".join(str(row) for row in range(fold, fold + 10)) for fold in range(10)]
    (root / "fold_indices.txt").write_text("\n".join(folds) + "\n")
    return tmp_path


def test_stl10_turns_its_pictures_upright_and_brings_its_unlabeled_part(objects):
    splits = STL10().load(objects)
    assert len(splits.train) == 25 and len(splits.test) == 10
    pixels = splits.train.fetch(torch.tensor([1, 21]))
    assert pixels.shape == (2, 3, 96, 96) and pixels[:, 0, 0, 0].tolist() == [1, 201]
    assert (pixels[:, :, 2, 5] == 255).all() and pixels[0, 0, 5, 2] == 1
    assert splits.train.targets["label"].tolist() == [*range(10), *range(10), *[-1] * 5]
    assert splits.test.classes == {"label": list("abcdefghij")}
    assert len(STL10(unlabeled=False).load(objects / "stl10_binary").train) == 20


def test_a_fold_of_stl10_keeps_its_labels(objects):
    train = STL10(fold=3, unlabeled=False).load(objects).train
    assert (train.targets["label"] >= 0).nonzero().flatten().tolist() == list(range(3, 13))
    data = StreamDataModule(STL10(fold=3), str(objects), 4, val_fraction=0)
    data.request(["unlabeled"])
    data.place(0, 1, 10)
    data.setup()
    assert data.sizes["labeled"] == 10 and data.sizes["unlabeled"] == 25


def test_damaged_files_of_stl10(objects):
    path = objects / "stl10_binary" / "test_y.bin"
    path.write_bytes(bytes([1] * 9))
    with pytest.raises(UserError, match="10 pictures but 9 labels"):
        STL10().load(objects)
    path.write_bytes(bytes([11] * 10))
    with pytest.raises(UserError, match="has label 10; expected 0 to 9"):
        STL10().load(objects)
    (objects / "stl10_binary" / "test_X.bin").write_bytes(b"short")
    path.write_bytes(bytes([1] * 10))
    with pytest.raises(UserError, match="5 bytes; expected a multiple of 27648"):
        STL10().load(objects)


def test_the_real_labels_of_cifar10n():
    clean, worst = read_labels(
        real("CIFAR10N") / "CIFAR10N" / "cifar10n_labels.npz", "worse_label", 10
    )
    assert len(clean) == 50000
    assert float((clean != worst).float().mean()) == pytest.approx(0.4021, abs=1e-3)


def as_numpy_1_wrote_it(path):
    """The same file with the old name of a function of numpy."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    assert any(b"numpy._core.multiarray" in content for _, content in entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content.replace(b"numpy._core.", b"numpy.core."))


def test_the_authors_file_of_cifar10n(tmp_path):
    path = tmp_path / "CIFAR-10_human.pt"
    labels = {"clean_label": np.arange(10), "worse_label": np.arange(10)[::-1].copy()}
    torch.save(labels, path)
    clean, worst = read_labels(path, "worse_label", 10)
    assert clean.tolist() == list(range(10)) and worst.tolist() == list(range(9, -1, -1))
    as_numpy_1_wrote_it(path)
    assert torch.equal(read_labels(path, "worse_label", 10)[1], worst)
    with pytest.raises(UserError, match=r"cannot be read .*the arrays 'clean_label' and 'aggre"):
        read_labels(path, "aggre_label", 10)
    path.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(path, "worse_label", 10)
    with pytest.raises(
        UserError, match=r"no labels of CIFAR-10N there; expected CIFAR10N/CIFAR-10"
    ):
        CIFAR10N().load(tmp_path / "..")


@pytest.mark.slow
def test_cifar10n_has_the_pictures_of_cifar10():
    root = real("CIFAR10N")
    splits = CIFAR10N("aggregate").load(root)
    clean, aggregate = read_labels(root / "CIFAR10N" / "cifar10n_labels.npz", "aggre_label", 10)
    assert torch.equal(splits.train.targets["label"], aggregate)
    assert float((clean != aggregate).float().mean()) == pytest.approx(0.0903, abs=1e-3)
    assert len(splits.test) == 10000
