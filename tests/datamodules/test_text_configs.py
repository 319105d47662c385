"""Text configs: each composes, names every argument with its default, and builds what it says."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from datamodules.views.text import TextView

CONFIGS = Path(__file__).parents[2] / "configs"
SETS = ["docstrings", "text_file", "clinc150", "trec", "sst2", "ag_news", "banking77", "hub_texts"]
SETS += ["imdb", "20newsgroups", "yelp", "amazon_reviews", "yahoo", "dbpedia"]
REQUIRED = {"text_file": "train_file", "hub_texts": "name"}
STRONG = sorted(path.stem for path in (CONFIGS / "data" / "strong_text").glob("*.yaml"))


def data(name, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=[f"data={name}", *overrides]).data


def check_arguments(node, skip=()):
    """Keys of the node are the arguments of its target; values are the defaults where there are
    any."""
    signature = inspect.signature(get_class(node["_target_"]))
    assert set(node) - {"_target_"} == set(signature.parameters)
    for name, parameter in signature.parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in skip:
            assert node[name] == parameter.default, name


@pytest.mark.parametrize("name", SETS)
def test_set_configs(name):
    needed = [f"data.source.{REQUIRED[name]}=a.csv"] if name in REQUIRED else []
    node = data(name, *needed)
    plain = OmegaConf.to_container(node, resolve=True)
    for part in (plain["source"], plain["text"], plain["views"]["raw"], plain["views"]["weak"]):
        check_arguments(part)
    assert instantiate(node.source).info().kind == "text"
    assert set(plain["views"]) == {"raw", "weak", "strong"}


@pytest.mark.parametrize("strong", STRONG)
def test_strong_views_can_be_chosen(strong):
    node = data("trec", f"data/strong_text={strong}")
    check_arguments(OmegaConf.to_container(node.views.strong), skip=("mode",))
    assert isinstance(instantiate(node.views.strong), TextView)
