"""Settings: every config of ours says every argument of what it makes, and makes it."""

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recipes.config.groups import CONFIGS
from recipes.config.signatures import find_target, signature
from recipes.config.validation import target_errors
from recipes.engine.trainer import TrainerSettings

OURS = [
    path
    for group in ("optimizer", "scheduler", "trainer")
    for path in sorted((CONFIGS / group).glob("*.yaml"))
]


@pytest.mark.parametrize("path", OURS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_keys_equal_the_signature(path):
    node = OmegaConf.load(path)
    known = signature(find_target(node["_target_"]))
    assert set(node.keys()) - {"_target_"} == set(known.arguments)
    if path.stem == "named":
        node["name"] = "adan"
    assert target_errors(path.stem, OmegaConf.to_container(node)) == []
    made = instantiate(node)
    if path.stem not in ("named", "warmup"):
        assert made == type(made)()


@pytest.mark.parametrize(
    ("steps", "every", "interval"),
    [
        (1200, None, 120),
        (800, None, 80),
        (5, None, 1),
        (100, 30, 30),
        (100, 500, 100),
        (0, None, 1),
    ],
)
def test_validation_is_every_tenth_of_the_run_unless_said_otherwise(steps, every, interval):
    assert TrainerSettings(max_steps=steps, val_every=every).validation_interval == interval
