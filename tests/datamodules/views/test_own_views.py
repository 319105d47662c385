"""Transforms of one's own as views: what they get and may give, and that only keys decide their
random numbers: not the worker, the rank, or whether a run was resumed."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as older
from torchvision.transforms import v2

import recipes
from datamodules.datamodule import StreamDataModule
from datamodules.picture_form import PictureForm
from datamodules.sources import Digits
from datamodules.views.image import Middle, Own, Raw, to_unit
from datamodules.views.named import named_view
from foundation.errors import UserError
from foundation.randomness import Randomness
from recipes.runs.start import ready, start

HERE = "tests.datamodules.views.test_own_views"
PIXELS = torch.arange(2 * 3 * 6 * 6).view(2, 3, 6, 6).to(torch.uint8)


def rolled(pixels):
    """Moved by numbers of all three libraries."""
    shift = random.randint(0, 7) + np.random.randint(0, 8) + int(torch.randint(0, 8, ()))
    return torch.roll(pixels, shift, 2)


class Rolled:
    def __call__(self, pixels):
        return rolled(pixels)


# -- what a transform gets and gives ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "transform"),
    [
        ("tensor", lambda x: x),
        ("pil", lambda x: x),
        ("array", lambda x: x),
        ("pil", older.ToTensor()),
        ("tensor", v2.ToDtype(torch.float32, scale=True)),
        ("array", lambda x: {"image": x}),
        ("array", lambda x: Image.fromarray(x)),
    ],
)
def test_every_form_of_a_picture(given, transform):
    """torchvision multiplies by 1/255."""
    assert torch.allclose(Own(transform, given)(PIXELS), to_unit(PIXELS), rtol=2e-7, atol=0)
    if given != "array":
        grey = PIXELS[:, :1]
        assert torch.allclose(Own(transform, given)(grey), to_unit(grey), rtol=2e-7, atol=0)


def test_bytes_and_floats_may_be_mixed():
    view = Own(lambda x: x if x[0, 0, 0] else x.float() / 255)
    assert torch.equal(view(PIXELS), to_unit(PIXELS))
    assert view.made(PIXELS[:0], []).shape == (0, 3, 6, 6)


def key_error(pixels):
    raise KeyError("no")


GENERATOR = np.random.default_rng(0)
WRONG = {
    "another size": (lambda x: x[:, :4], r"gave uint8 \[3, 4, 6\]; expected \[3, 6, 6\]"),
    "other channels": (lambda x: x[:1], r"gave uint8 \[1, 6, 6\]"),
    "whole numbers": (lambda x: x.long(), r"gave int64 \[3, 6, 6\]; expected one picture, uint8"),
    "normalized": (lambda x: x.float() / 255 - 0.5, "from -0.49.* to .*; expected .* normalize"),
    "NaN": (lambda x: x * float("nan"), "from nan to nan"),
    "nothing": (lambda x: None, "gave a NoneType"),
    "an error": (key_error, "transform key_error: raised KeyError: 'no'"),
    "own numbers": (
        lambda x: torch.roll(x, int(GENERATOR.integers(99)), 2),
        "other pictures for equal seeds",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_view_is_one_line_before_the_run(case):
    transform, words = WRONG[case]
    with pytest.raises(UserError, match=words) as caught:
        Own(transform).try_on(PictureForm(3, 6, 6))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UserError, match="int cannot be called"):
        Own(3)


def test_another_size_is_a_setting():
    view = Own(v2.Resize((4, 4)), size=4)
    view.try_on(PictureForm(3, 6, 6))
    assert view(PIXELS).shape == (2, 3, 4, 4)


def test_albumentations_gets_its_seed():
    albumentations = pytest.importorskip("albumentations")
    boxes = albumentations.RandomResizedCrop(size=(4, 4))
    view = Own(albumentations.Compose([boxes, albumentations.HorizontalFlip()]), size=4)
    view.try_on(PictureForm(3, 6, 6))
    one, again, other = (view.made(PIXELS, [seed, seed + 1]) for seed in (1, 1, 5))
    assert torch.equal(one, again) and not torch.equal(one, other)


# -- random numbers --------------------------------------------------------------------------------
def test_the_libraries_generators_are_left_where_they_were():
    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = numbers()
    seed()
    Own(rolled).made(PIXELS, [5, 6])
    assert numbers() == expected


def digits(rank=0, world=1, **settings):
    views = {"raw": Raw(), "weak": Own(rolled)}
    data = StreamDataModule(Digits(), batch_size=8, labels_per_class=1, views=views, **settings)
    data.request({"labeled"}, views={"labeled": ("weak", "weak2")})
    data.place(rank, world, 5)
    data.setup()
    return data


def views_of(data):
    return [batch["labeled"]["views"] for batch in data.train_dataloader()]


def test_neither_workers_nor_ranks_nor_a_resume_show():
    whole = views_of(digits())
    assert len({tuple(v["weak"].flatten().tolist()) for v in whole}) == len(whole)
    assert not torch.equal(whole[0]["weak"], whole[0]["weak2"])
    elsewhere = views_of(digits(num_workers=2))
    ranks = [views_of(digits(rank, 2)) for rank in range(2)]
    resumed = digits(num_workers=1)
    resumed.load_state_dict({"position": 2})
    late = views_of(resumed)
    for name in ("weak", "weak2"):
        for position, views in enumerate(whole):
            assert torch.equal(views[name], elsewhere[position][name])
            halves = [rank[position][name] for rank in ranks]
            assert torch.equal(torch.cat(halves), views[name])
        for position, views in enumerate(late):
            assert torch.equal(views[name], whole[2 + position][name])


def test_a_view_made_later_is_the_one_of_the_loader():
    data = digits()
    for batch in data.train_dataloader():
        stream = batch["labeled"]
        randomness = Randomness(0, batch["position"])

        def draw(purpose, randomness=randomness):
            return randomness.draw(f"labeled/{purpose}", 8)

        later = named_view(data.views, stream["data"], "weak2", draw)
        assert torch.equal(later, to_unit(stream["views"]["weak2"]))


# -- runs ------------------------------------------------------------------------------------------
COMMAND = [
    "data=digits",
    "~data.views.weak.flip",
    "~data.views.weak.shift",
    "~data.views.weak.padding",
    "data.views.strong=null",
    "data.views.weak._target_=datamodules.views.image.Own",
    f"+data.views.weak.transform={{_target_: {HERE}.Rolled}}",
    "data.batch_size=8",
    "data.num_workers=1",
    "network.name=digits_cnn",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "trainer.val_every=2",
]


def trained(folder, *arguments):
    start(ready([*COMMAND, f"run_dir={folder}", *arguments]))
    file = folder / "checkpoints" / "last.ckpt"
    return torch.load(file, weights_only=False)["state_dict"]


@pytest.mark.slow
def test_a_resumed_run_with_workers_is_bit_equal(tmp_path):
    whole = trained(tmp_path / "whole", "trainer.max_steps=4")
    trained(tmp_path / "half", "trainer.max_steps=2")
    half = tmp_path / "half"
    resumed = trained(tmp_path / "more", "trainer.max_steps=4", f"resume={half}")
    assert whole.keys() == resumed.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    # predictions need no code of the transform, and are not asked about it
    assert len(recipes.load(tmp_path / "whole").classes) == 10


def test_evaluation_by_a_transform_draws_nothing():
    data = StreamDataModule(Digits(), views={"raw": Own(rolled), "weak": Middle(None, 1.0)})
    pixels = torch.arange(128).view(2, 1, 8, 8).to(torch.uint8)
    first, second = (data.make_view(pixels, "raw") for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(data.make_view(pixels, "weak"), to_unit(pixels))
