"""The spec of a run is frozen, and nothing on the way from the command to the step writes to its
config."""

import pickle

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from recipes.config.resolve import resolve_command
from recipes.runs.run import check, set_up
from recipes.runs.stage_plan import plan_stages, stage_spec
from recipes.runs.start import ready
from recipes.setup.assemble import assemble
from recipes.setup.spec import RunSpec, with_values
from tests.support.tiny_runs import tiny


def test_the_config_of_every_run_is_read_only():
    spec = ready([*tiny("image"), "run_dir=unused"])
    before = OmegaConf.to_yaml(spec.config)
    for write in ("seed", "run_dir", "monitor"):
        with pytest.raises(ReadonlyConfigError):
            spec.config[write] = 3
    with pytest.raises(ReadonlyConfigError):
        spec.config.trainer.max_steps = 3
    assembly = assemble(spec)
    set_up(assembly)
    assert OmegaConf.is_readonly(assembly.config)
    assert OmegaConf.to_yaml(spec.config) == before


def test_the_monitor_is_filled_in_by_the_assembly_alone():
    spec = ready([*tiny("image"), "run_dir=unused"])
    assert spec.monitor is None and check(spec) == "val/accuracy"
    assembly = assemble(spec)
    assert assembly.monitor == assembly.config.monitor == "val/accuracy"
    assert spec.config.monitor is None
    with pytest.raises(AttributeError):
        assembly.changes = []


def test_a_plain_config_is_copied(tmp_path):
    config = resolve_command([*tiny("image"), f"run_dir={tmp_path}"]).config
    assemble(config)
    config.seed = 3
    assert not OmegaConf.is_readonly(config)


def test_other_values_make_another_spec():
    spec = RunSpec(OmegaConf.create({"run_dir": "a", "resume": "auto", "network": {"x": 1}}))
    other = spec.having({"run_dir": "b", "resume": None, "network.checkpoint": "c"})
    assert (spec.config.run_dir, spec.resume) == ("a", "auto")
    assert (str(other.folder), other.resume) == ("b", None)
    assert other.config.network == {"x": 1, "checkpoint": "c"}
    assert OmegaConf.is_readonly(other.config) and OmegaConf.is_readonly(
        with_values(spec.config, {})
    )


def test_stages_have_specs_of_their_own():
    spec = ready(["recipe=crt", "run_dir=out"])
    before = OmegaConf.to_yaml(spec.config)
    plans = plan_stages(spec)
    first = stage_spec(spec, "representation", plans.before([]))
    second = stage_spec(spec, "classifier", plans.before(["representation"]))
    assert (first.stage, first.weights_of) == ("representation", "")
    assert (second.stage, second.weights_of) == ("classifier", "representation")
    assert [str(stage.folder) for stage in (first, second)] == [
        "out/representation",
        "out/classifier",
    ]
    assert OmegaConf.is_readonly(second.config) and OmegaConf.is_readonly(second.config.trainer)
    assert OmegaConf.to_yaml(spec.config) == before


def test_a_spec_goes_to_another_process():
    spec = RunSpec(OmegaConf.create({"run_dir": "a"}), ("run_dir=a",))
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec and OmegaConf.is_readonly(again.config)
