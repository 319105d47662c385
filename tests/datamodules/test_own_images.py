"""Map-style datasets of torch as data: items of every form, labels, classes, and what is wrong."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import recipes
from datamodules.sources import OwnImages
from foundation.errors import UserError
from recipes.runs.start import ready, start

HERE = "tests.datamodules.test_own_images"


class Squares:
    """Grey squares whose value is ten times their number, of three classes in turn."""

    def __init__(self, count: int = 12, form: str = "pil", root: str = ""):
        self.count = count
        self.form = form
        self.root = root
        self.read = 0

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.read += 1
        array = np.full((6, 6), 10 * i % 256, np.uint8)
        image = {
            "pil": lambda: Image.fromarray(array),
            "array": lambda: array,
            "colour": lambda: np.stack([array] * 3, 2),
            "tensor": lambda: torch.from_numpy(array)[None],
            "float": lambda: torch.from_numpy(array)[None] / 255,
            "dict": lambda: Image.fromarray(array),
            "list": lambda: array.tolist(),
            "normalized": lambda: torch.from_numpy(array)[None] / 255 - 0.5,
        }[self.form]()
        return {"image": image, "label": i % 3} if self.form == "dict" else (image, i % 3)


class Listed(Squares):
    """The same with its labels and classes at hand."""

    classes = ("red", "green", "blue")

    @property
    def targets(self):
        return [i % 3 for i in range(self.count)]


def loaded(train, **settings):
    return OwnImages(train, size=4, channels=1, **settings).load(None)


@pytest.mark.parametrize("form", ["pil", "array", "colour", "tensor", "float", "dict"])
def test_items_of_every_form(form):
    splits = loaded(Squares(form=form), test=Squares(3))
    pixels = splits.train.fetch(torch.tensor([3, 0, 11]))
    assert pixels.shape == (3, 1, 4, 4) and pixels[:, 0, 0, 0].tolist() == [30, 0, 110]
    assert splits.train.targets["label"].tolist() == [0, 1, 2] * 4
    assert splits.train.classes == {"label": ["0", "1", "2"]} and len(splits.test) == 3


def test_labels_and_classes_that_are_at_hand_are_not_read():
    data = Listed()
    splits = loaded(partial(lambda: data))
    assert data.read == 0 and splits.train.classes == {"label": ["red", "green", "blue"]}
    assert (len(splits.train), len(splits.test)) == (9, 3)
    held = splits.test.rows.tolist()
    assert held == loaded(Listed()).test.rows.tolist()
    assert splits.test.fetch(torch.tensor([0]))[0, 0, 0, 0] == 10 * held[0]


def test_a_class_gets_the_folder_of_the_data(tmp_path):
    assert OwnImages(partial(Listed), size=4, channels=1).load(tmp_path).train.dataset.root == str(
        tmp_path
    )
    own = OwnImages(partial(Listed, root="mine"), size=4, channels=1).load(tmp_path)
    assert own.train.dataset.root == "mine"


def test_unlabeled_items_are_behind_the_labeled_ones():
    splits = loaded(Listed(), test=Listed(), unlabeled=Squares(5))
    assert len(splits.train) == 17 and splits.train.targets["label"][12:].tolist() == [-1] * 5
    assert splits.train.fetch(torch.tensor([16, 2]))[:, 0, 0, 0].tolist() == [40, 20]


def test_its_fingerprint_sees_pixels():
    one, other = loaded(Listed()).train, loaded(Listed(form="float")).train
    assert one.signature(slice(0, 9)) == other.signature(slice(0, 9)) != b""
    assert one.signature(slice(0, 4)) != one.signature(slice(4, 8))


def test_a_run_and_its_predictions(tmp_path):
    folder = tmp_path / "run"
    made = f"{{_target_: {HERE}.Listed, _partial_: true, count: 60}}"
    command = [
        "data=own_images",
        f"data.source.train={made}",
        "data.source.size=6",
        "data.source.channels=1",
        "data.num_workers=0",
        "data.batch_size=8",
        "network.name=digits_cnn",
        "trainer.max_steps=3",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
    ]
    start(ready([*command, f"run_dir={folder}"]))
    # no code of the dataset is needed, or asked about
    assert recipes.load(folder).classes == ["red", "green", "blue"]


@pytest.mark.parametrize(
    "train, message",
    [
        (Squares(form="list"), "data.source: item 1 of Squares: its picture is a list"),
        (Squares(form="normalized"), r"floating pixels from -0\.46.* to .*; expected \[0, 1\]"),
        (Squares(0), "data.source.train: Squares has no items"),
        ([(Image.new("L", (4, 4)), "cat")] * 3, "its labels are <U3"),
        ([3, 4], "is a int; expected"),
        (torch.nn.Identity(), "has no __getitem__ and __len__"),
        (partial(Squares, size=3), "Squares cannot be made"),
        (None, "data.source.train: is missing"),
    ],
)
def test_what_is_no_set_of_pictures_is_one_line(train, message):
    with pytest.raises(UserError, match=message) as caught:
        loaded(train).train.fetch(torch.tensor([0]))
    assert "\n" not in str(caught.value)
