"""Whole numbers with an exponent."""

import pytest
from omegaconf import OmegaConf

from recipes.config.options import read_options
from recipes.config.resolve import resolve_command
from recipes.config.signatures import signature
from recipes.config.validation import ROOT
from recipes.config.whole_numbers import as_whole, write_whole_numbers
from tests.support.command import roux


def test_an_exponent_is_taken_where_a_whole_number_is_expected():
    overrides = ["trainer.max_steps=1e3", "seed=2e1", "data.batch_size=3.2e1", "optimizer.lr=1e0"]
    config = resolve_command([*overrides, "run_dir=unused"]).config
    assert (config.trainer.max_steps, config.seed, config.data.seed) == (1000, 20, 20)
    assert type(config.trainer.max_steps) is type(config.data.split_seed) is int
    assert config.data.batch_size == 32
    assert type(config.optimizer.lr) is float


@pytest.mark.parametrize(
    ("override", "value"), [("1.5e0", "1.5"), ("1e-3", "0.001"), ("1e17", "1e+17"), ("-1e3", "")]
)
def test_what_is_no_whole_number_stays_wrong(override, value):
    outcome = roux(f"trainer.max_steps={override}", "dry_run=true")
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert f"trainer.max_steps: got {value}" in outcome.err


@pytest.mark.parametrize("override", ["1.0", "1e0", "1.5", "-3", "'0.1'"])
def test_neither_a_number_of_steps_nor_a_share_of_the_run(override):
    """1.0 is refused: it may mean one step or the whole run."""
    outcome = roux(f"scheduler.warmup_steps={override}", "dry_run=true")
    expected = "expected a whole number of steps, or a share of the run between 0 and 1"
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert "scheduler.warmup_steps: got" in outcome.err and expected in outcome.err


def test_steps_and_shares_are_told_apart():
    for override, value in (("1", 1), ("1e2", 100), ("0.1", 0.1), ("0.0", 0), ("1e-1", 0.1)):
        overrides = [f"scheduler.warmup_steps={override}", "run_dir=unused"]
        assert resolve_command(overrides).config.scheduler.warmup_steps == value


def test_nodes_below_lists_and_open_values_are_looked_at():
    node = {"_target_": "recipes.engine.trainer.TrainerSettings", "max_steps": 2e3}
    config = OmegaConf.create({"a": [{"b": node}], "c": None, "d": "???", "e": "${c}", "seed": 1e2})
    write_whole_numbers(config, ROOT)
    assert config.a[0].b.max_steps == 2000 and config.seed == 100
    assert type(config.a[0].b.max_steps) is int


def test_a_target_that_is_none_is_left_to_validation():
    config = OmegaConf.create({"a": {"_target_": [1]}, "b": {"_target_": "no.module"}})
    before = OmegaConf.to_yaml(config)
    write_whole_numbers(config, ROOT)
    assert OmegaConf.to_yaml(config) == before


def test_other_commands_read_it_too():
    def command(steps: int = 1, rate: float = 1.0) -> None: ...

    known = signature(command).arguments
    assert read_options(["steps=1e3", "rate=1e3"], known) == {"steps": 1000, "rate": 1000.0}
    assert type(as_whole(2.0, float)) is float and type(as_whole(2.0, int)) is int
