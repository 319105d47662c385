"""Data configs show every argument, with the default that the code has or one of their own, and can
be built."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from datamodules.datamodule import StreamDataModule
from foundation.randomness import Randomness
from tests.support.text_sets import DATA

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VISION = ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "image_folder"]
VISION += ["digits_parity", "multi_mnist", "multi_fashion", "fashion_and_mnist"]
VISION += ["svhn", "stl10", "cifar10n", "eurosat", "gtsrb", "celeba"]
PHOTOS = ["cub200", "cars196", "sop", "inshop", "flowers102", "food101", "pets", "dtd", "imagenet"]
PHOTOS += ["imagenet_lt", "places_lt", "inaturalist18", "pacs", "office_home", "office31"]
PHOTOS += ["domainnet"]
RETRIEVAL = ("cub200", "cars196", "sop", "inshop")


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(f"data/{name}", overrides=["+seed=3", *overrides])


def nodes(node) -> list[dict]:
    """All mappings with a _target_ in a tree."""
    found = [node] if isinstance(node, dict) and "_target_" in node else []
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return found + [inner for child in children for inner in nodes(child)]


@pytest.mark.parametrize("name", VISION)
def test_keys_are_those_of_the_signatures(name):
    tree = OmegaConf.to_container(composed(name).data, resolve=True)
    found = nodes(tree)
    assert {node["_target_"].rsplit(".", 1)[1] for node in found} >= {
        "StreamDataModule",
        "Raw",
        "Weak",
        "Strong",
    }
    for node in found:
        module, _, target = node["_target_"].rpartition(".")
        if module.startswith("datamodules.views"):
            pytest.importorskip(module, reason="the views of images are not installed here")
        signature = inspect.signature(getattr(importlib.import_module(module), target))
        assert set(node) - {"_target_"} == set(signature.parameters), target


@pytest.mark.parametrize("name", VISION)
def test_what_a_config_leaves_alone_is_the_default_of_the_code(name):
    data = OmegaConf.to_container(composed(name).data, resolve=True)
    defaults = inspect.signature(StreamDataModule).parameters
    own = {
        "_target_",
        "source",
        "views",
        "split_seed",
        "seed",
        "batch_size",
        "unlabeled_ratio",
        "num_workers",
    }
    for key in set(data) - own:
        assert data[key] == defaults[key].default, key
    assert data["split_seed"] == data["seed"] == 3


@pytest.mark.parametrize(
    ("name", "flip"),
    [
        ("digits", False),
        ("mnist", False),
        ("fashion_mnist", True),
        ("cifar10", True),
        ("cifar100", True),
        ("svhn", False),
        ("gtsrb", False),
    ],
)
def test_only_pictures_with_a_meaningful_mirror_image_are_mirrored(name, flip):
    views = composed(name).data.views
    assert views.weak.flip is flip and views.strong.weak.flip is flip
    assert (
        composed(name, f"data.views.weak.flip={not flip}").data.views.strong.weak.flip is not flip
    )


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("digits", None),
        ("mnist", "MNIST"),
        ("fashion_mnist", "FashionMNIST"),
        ("multi_mnist", "MNIST"),
        ("multi_fashion", "FashionMNIST"),
        ("fashion_and_mnist", "FashionMNIST"),
    ],
)
def test_what_comes_in_from_outside_is_the_ground_of_the_pictures(name, folder):
    """Strong views that turn, shear and move are filled with the grey that most corners of the set
    have."""
    if folder is not None and not (DATA / folder).is_dir():
        pytest.skip(f"{folder} is not in {DATA}")
    data = composed(name).data
    train = instantiate(data.source).load(DATA).train
    pictures = train.fetch(torch.arange(min(len(train), 500)))
    corners = pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].float() / 255
    assert float(corners.median()) == data.views.strong.fill


@pytest.mark.parametrize("name", PHOTOS)
def test_photographs_are_stored_larger_than_they_are_seen(name):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=[f"data={name}"])
    data = config.data
    disjoint = instantiate(data.source).info().disjoint
    assert bool(config.evaluate.retrieval) is disjoint is (name in RETRIEVAL)
    target = get_class(data.source._target_)
    arguments = inspect.signature(target).parameters
    given = OmegaConf.to_container(data.source)
    assert {key: given[key] for key in arguments} == {
        key: argument.default for key, argument in arguments.items()
    }
    module = instantiate(data, _convert_="all")
    assert module.info.shape == (3, 224, 224) and module.info.form.size == (256, 256)
    assert module.view_names() == {"raw", "weak", "strong"} and module.num_workers == 2


@pytest.mark.parametrize("name", [*VISION, "hub_images"])
def test_sources_are_built_without_data(name):
    source = composed(name).data.source
    if name == "hub_images":
        source.name = "any"
    assert instantiate(source).info().kind == "image" and get_class(source._target_)


def test_digits_deliver_views_in_the_unit_interval():
    pytest.importorskip(
        "datamodules.views.image", reason="the views of images are not installed here"
    )
    data = instantiate(composed("digits", "data.labels_per_class=4").data, _convert_="all")
    data.request({"unlabeled"})
    data.place(0, 1, 2)
    data.setup()
    batch = next(iter(data.train_dataloader()))["unlabeled"]
    random = Randomness(seed=3, step=0)
    for name in ("raw", "weak", "weak2", "strong", "strong2"):
        view = data.make_view(batch, name, lambda purpose: random.draw(f"unlabeled/{purpose}", 96))
        assert view.shape == (96, 1, 8, 8) and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1 and view.isfinite().all()
