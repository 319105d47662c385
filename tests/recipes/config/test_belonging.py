"""A class that does not belong at its place is one line."""

import pytest

from recipes.config.resolve import resolve_command
from recipes.config.validation import target_errors, validate
from recipes.engine.trainer import TrainerSettings
from recipes.setup.assemble import assemble
from recipes.setup.spec import with_values
from tests.support.command import roux

TRAINER = "recipes.engine.trainer.TrainerSettings"
METHOD = "recipes.contract.method.Method"
PLACES = {
    "+methods.x": METHOD,
    "+evaluate.x": "recipes.contract.probe.Probe",
    "optimizer": "recipes.optimization.optimizers.OptimizerSettings",
    "scheduler": "recipes.optimization.schedulers.Schedule",
    "checkpoint": "recipes.engine.trainer.CheckpointSettings",
    "data": "datamodules.datamodule.StreamDataModule",
}


def trainer_settings() -> TrainerSettings:
    """A factory."""
    return TrainerSettings()


@pytest.mark.parametrize("place", PLACES)
def test_a_class_of_another_kind(place):
    outcome = roux(f"{place}._target_={TRAINER}", "dry_run=true")
    base = PLACES[place]
    assert outcome.lines == [
        f"error: {place.lstrip('+')}._target_: '{TRAINER}' is no {base.rpartition('.')[2]}; "
        f"expected a subclass of {base}"
    ]
    assert outcome.code == 2


@pytest.mark.parametrize("place", ["+methods.x", "+evaluate.x"])
def test_a_factory_of_another_kind(place):
    outcome = roux(f"{place}._target_={__name__}.trainer_settings", "dry_run=true")
    assert len(outcome.lines) == 1 and outcome.code == 2
    assert "._target_: makes a TrainerSettings, no " in outcome.err


def test_a_factory_of_the_right_kind():
    trainer = {"_target_": f"{__name__}.trainer_settings"}
    config = with_values(resolve_command(["run_dir=unused"]).config, {"trainer": trainer})
    assert validate(config) == []
    assert assemble(config).trainer == TrainerSettings()


def test_a_source_needs_its_functions():
    outcome = roux("data.source._target_=pathlib.Path", "dry_run=true")
    assert outcome.lines == [
        "error: data.source._target_: 'pathlib.Path' has no info and no load; "
        "expected a loader, see datamodules.source.Loader"
    ]


def test_other_places_take_any_class():
    assert target_errors("data.views.weak", {"_target_": TRAINER}) == []
