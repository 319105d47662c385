"""Values that no setting takes, whatever its range."""

import math
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from recipes.config.groups import CONFIGS
from recipes.config.signatures import find_target, fits, signature
from recipes.config.unusable import unusable
from recipes.config.validation import target_errors, targets, value_errors
from tests.support.command import roux

HUGE = 10**23
OWN = ("methods", "recipes", "datamodules")
WRONG = {
    "optimizer.lr=inf": "got inf (not finite), expected a number above 0",
    "optimizer.weight_decay=inf": "got inf (not finite), expected a number at least 0",
    "supervised_weight=inf": "got inf (not finite), expected a number at least 0",
    "network.mean=nan": "got nan (not finite), expected a number or a list, each a number or null",
    "network.std=[.1,nan]": "got nan (not finite), expected a number or a list, each a number or "
    "null",
    "data.imbalance_factor=inf": "got inf (not finite), expected a number at least 1 or null",
    "trainer.gradient_clip_val=inf": "got inf (not finite), expected a number above 0 or null",
    "checkpoint.every_minutes=inf": "got inf (not finite), expected a number above 0 or null",
    f"trainer.max_steps={HUGE}": f"got {HUGE} (beyond 64 bits), expected a whole number at least 0",
    f"optimizer.lr={HUGE}": f"got {HUGE} (beyond 64 bits), expected a number above 0",
    "data.batch_size=1000000000": "got 1000000000, expected a whole number between 1 and 1048576",
    "data.eval_batch_size=1000000000": "got 1000000000, expected a whole number between 1 and "
    "1048576",
    "data.unlabeled_ratio=1000000000": "got 1000000000, expected a whole number between 1 and "
    "10000",
    "data.num_workers=1000000000": "got 1000000000, expected a whole number between 0 and 1024",
    "data.split_seed=-1": "got -1, expected a whole number between 0 and 4294967295",
    "data.seed=-1": "got -1, expected a whole number between 0 and 4294967295",
    "+network.options.x=nan": "got nan (not finite), expected a mapping or null",
    "+optimizer.options.x=inf": "got inf (not finite), expected a mapping",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_number_that_no_setting_takes_is_one_line(override):
    key = override.lstrip("+").partition("=")[0].removesuffix(".x")
    outcome = roux(override, "dry_run=true")
    assert outcome.lines == [f"error: {key}: {WRONG[override]}"]
    assert outcome.code == 2


@pytest.mark.parametrize("setting", ["run_dir", "resume", "data.root", "network.checkpoint"])
@pytest.mark.parametrize("more", [[], ["resume=auto"]])
def test_a_name_that_no_file_system_takes_is_one_line(setting, more):
    outcome = roux(*more, f"{setting}=a/{'x' * 300}", "dry_run=true")
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert "a name of 300 bytes, expected at most 255" in outcome.err


@pytest.mark.parametrize("setting", ["run_dir", "resume", "data.root", "network.name", "monitor"])
def test_a_nul_byte_is_one_line(setting):
    outcome = roux(f"{setting}='a\0b'", "dry_run=true")
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert outcome.err.startswith(f"error: {setting}: got 'a\\x00b' (holds a NUL byte)")


def test_every_number_of_every_class_refuses_what_is_not_finite():
    """All targets of all config files, so that a class added later is held to it."""
    paths = set()
    for file in CONFIGS.rglob("*.yaml"):
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        paths |= {node["_target_"] for _, node in targets(tree, file.stem)}
    own = sorted(path for path in paths if path.split(".")[0] in OWN)
    assert len(own) > 80
    for path in own:
        for name, argument in signature(find_target(path)).arguments.items():
            for value in (math.inf, -math.inf, math.nan, HUGE):
                assert value_errors(name, value, argument.annotation), (path, name, value)


def test_a_class_may_take_an_infinite_number():
    Distance = Annotated[float, Field(allow_inf_nan=True)]
    for annotation in (Distance, Distance | None, list[Distance]):
        value = [math.inf] if annotation == list[Distance] else math.inf
        assert fits(value, annotation)
    assert not fits(HUGE, Distance)


def test_arguments_behind_double_stars_are_looked_at_too():
    def target(**rest: Any) -> None: ...

    globals()["target"] = target
    node = {"_target_": f"{__name__}.target", "deep": {"list": [1, math.nan]}}
    assert [str(e) for e in target_errors("x", node)] == ["x.deep: got nan (not finite)"]


def test_long_values_are_cut_in_messages():
    line = str(value_errors("k", "y" * 200, int)[0])
    assert len(line) < 120 and "…" in line


def test_what_is_sound():
    tree = {"a": [1, 2.5, None, True, "text"]}
    assert unusable(tree) == ""
