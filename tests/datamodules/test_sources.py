"""Vision sources: real sets where they lie at hand, small files written here, and one-line errors
for bad ones."""

import gzip
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import sources
from datamodules.datamodule import StreamDataModule
from datamodules.source import ArraySource, Loader
from datamodules.sources import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, ImageFolder
from datamodules.sources.cifar import read_sheets
from datamodules.sources.idx import read_idx
from foundation.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the real set {name} in ../shared/data")
    return SHARED / name


def one_line(caught) -> str:
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


ARGUMENTS = {"ImageTable": ("table.csv",)}  # of loaders that need some


@pytest.mark.parametrize("name", sources.__all__)
def test_every_loader_keeps_the_protocol_and_knows_itself_without_data(name):
    loader = getattr(sources, name)(*ARGUMENTS.get(name, ()))
    assert isinstance(loader, Loader)
    info = loader.info()
    assert info.kind in ("image", "text") and info.tasks


# -- digits ----------------------------------------------------------------------------------------
def test_digits_are_the_real_ones_split_the_same_in_every_run():
    from sklearn.datasets import load_digits

    splits, again = Digits().load(), Digits().load()
    assert splits.test.pixels.equal(again.test.pixels)
    assert (len(splits.train), len(splits.test)) == (1297, 500)
    both = torch.cat([splits.train.pixels, splits.test.pixels]).flatten(1).double() * 16 / 255
    original = torch.from_numpy(load_digits().data)
    # the same multiset of pictures, and the 17 grey levels survive the scaling
    assert sorted(both.round().int().tolist()) == sorted(original.int().tolist())
    assert splits.train.pixels.min() == 0 and splits.train.pixels.max() == 255


def test_digits_split_is_stratified():
    splits = Digits().load()
    train, test = (
        torch.bincount(part.targets["label"], minlength=10) for part in (splits.train, splits.test)
    )
    quota = (train + test) * 500 / 1797
    assert ((test - quota).abs() < 1).all()


def test_digits_second_task_and_unknown_tasks():
    train = Digits(tasks=["label", "parity"]).load().train
    assert train.targets["parity"].equal(train.targets["label"] % 2)
    with pytest.raises(UserError, match="'party'; did you mean 'parity'"):
        Digits(tasks=["party"])
    with pytest.raises(UserError, match="each task once"):
        Digits(tasks=[])


# -- idx -------------------------------------------------------------------------------------------
def write_idx(path: Path, values: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    raw = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_set(folder: Path, ending: str) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng, written = np.random.default_rng(0), {}
    for part, size in (("train", 30), ("t10k", 20)):
        written[part] = rng.integers(0, 256, (size, 28, 28))
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", written[part])
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", np.arange(size) % 10)
    return written


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("given", [".", "MNIST", "MNIST/raw"])
def test_idx_files_are_found_from_parent_set_and_raw_folder(tmp_path, ending, given):
    written = write_set(tmp_path / "MNIST" / "raw", ending)
    splits = MNIST().load(tmp_path / given)
    assert splits.train.pixels.numpy()[:, 0].tolist() == written["train"].tolist()
    assert splits.test.pixels.numpy()[:, 0].tolist() == written["t10k"].tolist()
    assert splits.test.targets["label"].tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(("content", "message"), [
    (b"\0\0\x08\x01" + struct.pack(">I", 5) + b"abc", "has 3 values"),
    (b"<html>moved</html>", "not an idx file"),
    (b"", "not an idx file"),
])  # fmt: skip
def test_broken_idx_files_are_named(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(path) in one_line(caught)


def test_a_cut_off_gzip_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(5000))[:20])
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_idx(path)
    assert str(path) in one_line(caught)


@pytest.mark.parametrize(("loader", "mean"), [(MNIST(), 0.1307), (FashionMNIST(), 0.2860)])
def test_real_idx_sets_have_the_published_mean(loader, mean):
    splits = loader.load(real(type(loader).__name__))
    assert (len(splits.train), len(splits.test)) == (60000, 10000)
    assert splits.train.pixels.shape[1:] == loader.info().shape
    assert splits.train.pixels.double().mean().item() / 255 == pytest.approx(mean, abs=5e-5)


# -- CIFAR -----------------------------------------------------------------------------------------
def write_sheets(folder: Path, parts: dict[str, int]) -> dict[str, np.ndarray]:
    """Sheets of two rows of 50 tiles, lossless; tile i of a part has a picture of its own."""
    folder.mkdir()
    rng, written, labels = np.random.default_rng(1), {}, {}
    for part, sheets in parts.items():
        tiles = rng.integers(0, 256, (sheets * 100, 32, 32, 3), dtype=np.uint8)
        for number in range(sheets):
            grid = tiles[number * 100 : (number + 1) * 100].reshape(2, 50, 32, 32, 3)
            Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in grid], 0)).save(
                folder / f"{part}_{number:02d}.png"
            )
        written[part], labels[part] = tiles, (np.arange(len(tiles)) % 10).astype(np.uint8)
    np.savez(folder / "labels.npz", classes=np.array([f"c{i}" for i in range(10)]), **labels)
    return written


@pytest.mark.parametrize("given", [".", "cifar10_jpeg95"])
def test_sheets_are_cut_into_tiles_row_by_row(tmp_path, given):
    written = write_sheets(tmp_path / "cifar10_jpeg95", {"train": 2, "test": 1})
    lossless = write_sheets(tmp_path / "cifar10_test_lossless", {"test": 2})
    splits = CIFAR10().load(tmp_path / given)
    assert (splits.train.pixels.permute(0, 2, 3, 1).numpy() == written["train"]).all()
    assert splits.test.pixels.permute(0, 2, 3, 1).numpy().shape == written["test"].shape
    assert splits.train.targets["label"].tolist() == [i % 10 for i in range(200)]
    best = CIFAR10(test="lossless").load(tmp_path / given)
    assert (best.test.pixels.permute(0, 2, 3, 1).numpy() == lossless["test"]).all()


def test_faults_of_sheets_are_named(tmp_path):
    folder = tmp_path / "cifar10_jpeg95"
    write_sheets(folder, {"train": 2, "test": 1})
    with pytest.raises(UserError, match="no folder cifar10_test_lossless"):
        CIFAR10(test="lossless").load(tmp_path)
    (folder / "train_01.png").unlink()
    with pytest.raises(UserError, match="100 tiles but 200 labels"):
        CIFAR10().load(tmp_path)
    (folder / "train_01.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train_01\.png: not a picture"):
        CIFAR10().load(tmp_path)
    Image.new("RGB", (64, 64)).save(folder / "train_01.png")
    with pytest.raises(UserError, match=r"train_01\.png: 64×64 pixels; expected a sheet"):
        CIFAR10().load(tmp_path)


def test_real_sheets_have_the_published_mean_and_balance():
    test = read_sheets(real("cifar10_test_lossless"), "test")
    assert torch.bincount(test.targets["label"]).tolist() == [1000] * 10
    mean = test.pixels.double().mean((0, 2, 3)) / 255
    assert torch.allclose(
        mean, torch.tensor([0.4942, 0.4851, 0.4504], dtype=torch.float64), atol=1e-4
    )
    jpeg = read_sheets(real("cifar10_jpeg95"), "test")
    assert jpeg.targets["label"].equal(test.targets["label"])
    # the same pictures: recompression moves a grey level by 1.9 on average
    assert (jpeg.pixels.int() - test.pixels.int()).abs().double().mean() < 2.5


def test_torchvision_format_is_read_through_torchvision(tmp_path, monkeypatch):
    import torchvision

    asked = []

    class Set:
        classes = ("a", "b")

        def __init__(self, root, train, download):
            asked.append((Path(root), download))
            if Path(root) != tmp_path:
                raise RuntimeError(
                    "Dataset not found or corrupted. You can use download=True to download it"
                )
            self.data, self.targets = np.full((4, 32, 32, 3), 7, np.uint8), [0, 1, 0, 1]

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Set)
    inner = tmp_path / "cifar-100-python"
    inner.mkdir()
    for given in (tmp_path, inner):
        splits = CIFAR100().load(given)
        assert splits.train.pixels.shape == (4, 3, 32, 32) and splits.test.targets[
            "label"
        ].tolist() == [
            0,
            1,
            0,
            1,
        ]
    assert not any(download for _, download in asked)


# -- no data and no network ------------------------------------------------------------------------
@pytest.mark.parametrize("loader", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()])
@pytest.mark.parametrize("given", [True, False])
def test_neither_copy_nor_network_is_one_quick_line(tmp_path, monkeypatch, capsys, loader, given):
    import socket

    def offline(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"data\.root=.* set data\.root to a folder that contains it"
    ) as caught:
        loader.load(tmp_path if given else None)
    assert "Name or service not known" in one_line(caught)
    assert time.monotonic() - start < 20 and socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    for loader in (MNIST(), CIFAR10(), ImageFolder()):
        with pytest.raises(UserError, match="does not exist") as caught:
            loader.load(tmp_path / "data")
        one_line(caught)
    assert not (tmp_path / "data").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        MNIST().load(tmp_path / "file")


# -- folders of pictures ---------------------------------------------------------------------------
def write_pictures(folder: Path, per_class: int = 5, size=(20, 10)) -> None:
    for label, name in enumerate(("ant", "bee", "cat")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            colour = (80 * label, 10 * number, 255 - 80 * label)
            Image.new("RGB", size, colour).save(folder / name / f"{number}.png")


def test_pictures_are_divided_by_folder_names(tmp_path):
    for part, count in (("train", 5), ("test", 2), ("val", 3)):
        write_pictures(tmp_path / part, count)
    splits = ImageFolder(size=8).load(tmp_path)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [15, 9, 6]
    assert splits.train.classes == {"label": ["ant", "bee", "cat"]}
    batch = splits.train.fetch(torch.tensor([14, 0]))
    assert batch.shape == (2, 3, 8, 8) and batch.dtype == torch.uint8
    assert batch[0, :, 3, 3].tolist() == [160, 40, 95] and batch[1, :, 0, 0].tolist() == [0, 0, 255]


def test_a_share_of_each_class_is_tested_on_where_nothing_is_divided(tmp_path):
    write_pictures(tmp_path, 10)
    first, again = (ImageFolder(size=4, test_fraction=0.3).load(tmp_path) for _ in range(2))
    assert torch.bincount(first.test.targets["label"]).tolist() == [3, 3, 3]
    assert first.test.paths.tolist() == again.test.paths.tolist()
    assert not set(first.test.paths) & set(first.train.paths) and len(first.train) == 21


def test_grey_pictures_and_the_middle_of_wide_ones(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            wide = np.zeros((8, 24), np.uint8)
            wide[:, 8:16] = 200
            Image.fromarray(wide).save(tmp_path / part / name / "wide.png")
    picture = ImageFolder(size=8, channels=1).load(tmp_path).train.fetch(torch.tensor([0]))
    assert picture.shape == (1, 1, 8, 8) and picture.unique().tolist() == [200]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_is_named_in_one_line_from_any_process(tmp_path, workers):
    write_pictures(tmp_path, 10)
    for path in (tmp_path / "bee").iterdir():
        path.write_bytes(b"not a picture")
    data = StreamDataModule(
        ImageFolder(size=8, check="none"),
        root=str(tmp_path),
        batch_size=30,
        num_workers=workers,
    )
    data.place(0, 1, 3)
    data.setup()
    with pytest.raises(UserError, match=r"bee/\d\.png: not a picture that can be read") as caught:
        next(iter(data.train_dataloader()))
    one_line(caught)


def test_faults_of_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=null"):
        ImageFolder().load(None)
    with pytest.raises(UserError, match="no class folders"):
        ImageFolder().load(tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no pictures"):
        ImageFolder().load(tmp_path)
    write_pictures(tmp_path / "train")
    with pytest.raises(UserError, match="no folder 'test'"):
        ImageFolder().load(tmp_path)
    write_pictures(tmp_path / "test")
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(UserError, match="class folder 'dog' is not among the classes"):
        ImageFolder().load(tmp_path)


def test_a_class_without_training_pictures_is_refused_in_set_up(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / part)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(UserError, match="no training sample of class 'empty'"):
        StreamDataModule(ImageFolder(size=8), root=str(tmp_path)).setup()


def test_array_source_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="uint8"):
        ArraySource(torch.zeros(2, 1, 4, 4), {}, {})
    with pytest.raises(ValueError, match="targets of 'label'"):
        ArraySource(
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            {"label": torch.zeros(3, dtype=torch.int64)},
            {},
        )
