"""Views that do not fit the network's input are refused before data are read."""

from typing import get_args

import pytest
import torch

from datamodules.datamodule import StreamDataModule
from datamodules.sources import Digits, ImageFolder, OwnImages
from datamodules.views.image import Middle, Natural, Own, Raw, ResizedCrop, Strong, Weak
from foundation.errors import UserError
from recipes.predict.trust import drop_training_parts, name_problem, object_problem
from recipes.setup.view_checks import check_view_sizes, enlarged

FITTING = {"raw": Middle(8), "weak": ResizedCrop(8), "strong": Strong(weak=ResizedCrop(8))}


def data(views, size=16, **settings):
    module = StreamDataModule(ImageFolder(size=size), views=views, **settings)
    module.request({"labeled"}, views={"labeled": ("weak",), "unlabeled": ("weak", "strong2")})
    return module


def test_views_of_the_networks_size():
    module = data(FITTING, input_size=8)
    check_view_sizes(module)
    assert module.info.shape == (3, 8, 8) and module.info.form.shape == (3, 16, 16)
    check_view_sizes(data({"raw": Raw(), "weak": Weak(), "strong": Strong()}))
    # a view that no step asks for may be of any size
    check_view_sizes(data({**FITTING, "other": Weak()}, input_size=8))


@pytest.mark.parametrize(
    ("views", "settings", "words"),
    [
        (
            FITTING | {"raw": Raw()},
            {"input_size": 8},
            r"data\.views\.raw: makes pictures of 16×16, and data\.input_size=8; expected a view",
        ),
        (
            FITTING | {"strong": Strong()},
            {"input_size": 8},
            r"data\.views\.strong2: makes pictures of 16×16",
        ),
        (
            FITTING,
            {},
            r"data\.views\.raw: makes pictures of 8×8, and data\.input_size is not set; expected "
            r"data\.input_size=8",
        ),
        (
            FITTING | {"weak": Natural(ResizedCrop(9))},
            {"input_size": 8},
            r"data\.views\.weak: makes pictures of 9×9",
        ),
        (
            FITTING | {"weak": Own(lambda x: x, size=8)},
            {"input_size": 8},
            r"gave uint8 \[3, 16, 16\]; expected \[3, 8, 8\]",
        ),
    ],
)
def test_another_size_is_one_line(views, settings, words):
    with pytest.raises(UserError, match=words):
        check_view_sizes(data(views, **settings))


def test_texts_have_no_input_size():
    class Texts(Digits):
        def info(self):
            return type(super().info())("text", {"label": 2})

    with pytest.raises(UserError, match=r"data\.input_size=8: is for pictures; leave it out"):
        StreamDataModule(Texts(), input_size=8)


def test_pictures_that_views_enlarge_are_a_remark():
    assert enlarged(data(FITTING, input_size=8)) == ""
    assert enlarged(data(FITTING, size=4, input_size=8)) == (
        "pictures are stored with 4×4 pixels, and the views make 8×8 of them; "
        "data.source.size=9 stores more"
    )
    digits = StreamDataModule(Digits(), views=FITTING, input_size=12)
    assert enlarged(digits).endswith("the views make 12×12 of them")


def test_unlabeled_pictures_are_stored_as_the_others(tmp_path):
    from PIL import Image

    (tmp_path / "more").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "more" / "a.png")
    items = [(Image.new("RGB", (30, 20)), n % 2) for n in range(8)]
    module = StreamDataModule(
        OwnImages(items, size=16, fit="pad", fill=1.0),
        views=FITTING,
        input_size=8,
        unlabeled=str(tmp_path / "more"),
        val_fraction=0,
    )
    module.setup()
    last = module.parts["unlabeled"].fetch(torch.tensor([module.sizes["unlabeled"] - 1]))
    assert last["data"].shape == (1, 3, 16, 16) and last["data"][0, :, 0].unique().tolist() == [255]


# -- a finished run --------------------------------------------------------------------------------
IMAGE = "datamodules.views.image"


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("data.views.raw", f"{IMAGE}.Middle"),
        ("data.views.weak", f"{IMAGE}.Natural"),
        ("data.views.weak.crop", f"{IMAGE}.ResizedCrop"),
        ("data.views.weak.crop", f"{IMAGE}.Weak"),
        ("data.views.weak.policy", f"{IMAGE}.AutoAugment"),
        ("data.views.weak.policy", f"{IMAGE}.TrivialAugment"),
        ("data.views.weak.policy", f"{IMAGE}.RandAugment"),
        ("data.views.weak.color", f"{IMAGE}.ThreeAugment"),
        ("data.views.weak.color", f"{IMAGE}.ColorJitter"),
        ("data.views.weak.erase", f"{IMAGE}.Erasing"),
        ("data.views.strong.weak", f"{IMAGE}.ResizedCrop"),
        ("data.views.weak", f"{IMAGE}.Own"),
    ],
)
def test_a_run_with_these_views_can_be_loaded(key, target):
    assert name_problem(key, target) == "" and object_problem(key, target) == ""


@pytest.mark.parametrize("target", [f"{IMAGE}.Raw", "datamodules.sources.Digits", "os.system"])
def test_nothing_else_is_a_stage(target):
    key = "data.views.weak.color"
    assert name_problem(key, target) or object_problem(key, target)


def test_transforms_for_training_are_not_asked_about():
    own = {"_target_": f"{IMAGE}.Own", "transform": {"_target_": "mine.Transform"}}
    tree = {"data": {"views": {"raw": dict(own), "weak": dict(own)}}}
    drop_training_parts(tree)
    assert tree["data"]["views"]["weak"]["transform"] is None
    assert tree["data"]["views"]["raw"]["transform"] == {"_target_": "mine.Transform"}


def test_an_exported_model_sees_pictures_as_the_run_did():
    from types import SimpleNamespace

    from datamodules.picture_form import Fit
    from recipes.export.timm_folder import CROP_MODES, share_seen
    from recipes.predict.inputs import Pictures

    assert set(CROP_MODES) == set(get_args(Fit))
    form = ImageFolder(size=16, fit="pad").form
    seen = {Middle(14): 0.875, Middle(16, 0.5): 0.5, Raw(): 1.0}
    for view, share in seen.items():
        assert share_seen(SimpleNamespace(reader=Pictures(view, form))) == share
