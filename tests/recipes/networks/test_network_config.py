"""The config lists every setting of `build_network` with its default."""

import inspect
from pathlib import Path
from types import SimpleNamespace

from hydra.utils import instantiate
from omegaconf import OmegaConf

from recipes.networks import build_network

CONFIG = Path(__file__).parents[3] / "configs" / "network" / "default.yaml"


def test_config_is_the_signature() -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONFIG))
    parameters = inspect.signature(build_network).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    assert list(given) == list(defaults)
    assert given | {"options": given["options"] or None} == defaults


def test_config_makes_a_network() -> None:
    config = OmegaConf.load(CONFIG)
    config.options = {"bn_momentum": 0.2, "width": 8}
    network = instantiate(
        config, info=SimpleNamespace(kind="image", shape=(1, 8, 8)), tasks={"label": 3}
    )
    assert network.backbone.layers[1].momentum == 0.2
    assert network.feature_dim == 16
