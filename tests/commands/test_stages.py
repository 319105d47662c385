"""A recipe of two stages: each a run in a folder of its own, the second on the weights of the
first; killed anywhere and started again with `resume`, it continues in the right stage."""

import json
import re

import pytest
import torch

from foundation.errors import ConfigErrors
from recipes.config.resolve import resolve_command
from recipes.engine.recipe import Recipe
from tests.support.command import QUIET, read_metrics, roux, train

CRT = (
    "recipe=crt",
    "network.name=digits_cnn",
    "+network.options.width=8",
    "data.imbalance_factor=20",
)
SIX = (*CRT, "trainer.max_steps=6", "trainer.val_every=3", "trainer.log_every=1")


def checkpoint(folder, stage):
    return torch.load(folder / stage / "checkpoints" / "last.ckpt", weights_only=True)


def network(folder, stage):
    state = checkpoint(folder, stage)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("network.")}


def stop_at(step, stage, monkeypatch):
    """Ctrl-C once `step` optimizer steps of a stage are done."""
    publish = Recipe.publish

    def stop(self, done, lr):
        publish(self, done, lr)
        present = "classifier" if "crt" in self.composition.methods else "representation"
        if (done, present) == (step, stage):
            raise KeyboardInterrupt

    monkeypatch.setattr(Recipe, "publish", stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "whole"
    train(folder, *SIX)
    return folder


def test_the_second_stage_changes_the_heads_of_the_first(whole):
    first, second = network(whole, "representation"), network(whole, "classifier")
    differing = {name for name in first if not torch.equal(first[name], second[name])}
    assert differing == {"network.heads.label.weight", "network.heads.label.bias"}
    done = json.loads((whole / "stages.json").read_text())
    assert list(done) == ["representation", "classifier"]
    assert all("test/balanced_accuracy" in figures for figures in done.values())
    assert all((whole / stage / "report.html").is_file() for stage in done)
    assert "begins with the weights of representation" in (whole / "plan.txt").read_text()


@pytest.mark.parametrize("stage", ["representation", "classifier"])
def test_a_killed_run_continues_in_the_right_stage(stage, whole, place, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(5, stage, patch)
        assert roux(*QUIET, *SIX, "run_dir=cut").code == 130
    before = (place / "cut" / "stages.json").is_file()
    assert before == (stage == "classifier")
    outcome = roux(*QUIET, *SIX, "run_dir=cut", "resume=cut")
    assert outcome.code == 0, outcome.err
    ours, theirs = network(place / "cut", "classifier"), network(whole, "classifier")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("representation", "classifier"):
        assert read_metrics(place / "cut" / name) == read_metrics(whole / name)


def test_a_stage_that_was_killed_after_its_last_step_is_evaluated(whole, place):
    train(place / "run", *SIX)
    done = json.loads((place / "run" / "stages.json").read_text())
    (place / "run" / "stages.json").write_text(
        json.dumps({"representation": done["representation"]})
    )
    outcome = roux(*QUIET, *SIX, "run_dir=run", "resume=run")
    assert outcome.code == 0, outcome.err
    again = json.loads((place / "run" / "stages.json").read_text())
    assert again["classifier"]["test/accuracy"] == done["classifier"]["test/accuracy"]


def test_the_command_line_holds_in_every_stage_and_wins():
    config = resolve_command([*CRT, "trainer.max_steps=7", "run_dir=unused"]).config
    assert [stage.trainer.max_steps for stage in config.stages.values()] == [7, 7]
    config = resolve_command([*CRT, "run_dir=unused"]).config
    assert [stage.trainer.max_steps for stage in config.stages.values()] == [1200, 300]
    assert [list(stage.get("methods") or {}) for stage in config.stages.values()] == [
        [],
        ["crt", "class_balanced_sampling"],
    ]
    assert config.stages.classifier.chosen.long_tail == "[crt,class_balanced_sampling]"


def test_a_sweep_over_a_key_of_one_stage():
    swept = ("stages.classifier.trainer.max_steps=3,4", "dry_run=true")
    outcome = roux("-m", *QUIET, *SIX, *swept)
    assert outcome.code == 0, outcome.err
    assert re.findall(r"(\d+) steps, precision", outcome.out) == ["6", "3", "6", "4"]


def settings(method, *command):
    """Stage -> settings of a method, where the stage has it."""
    stages = resolve_command([*command, "run_dir=unused"]).config.stages
    return {
        name: stage.methods[method]
        for name, stage in stages.items()
        if method in (stage.get("methods") or {})
    }


def test_a_key_of_a_method_holds_in_the_stages_that_have_it():
    command = (
        *CRT,
        "methods.crt.bn=drift",
        "methods.class_balanced_sampling.samples_per_class=2",
    )
    found = settings("crt", *command)
    assert list(found) == ["classifier"] and found["classifier"].bn == "drift"
    # the stage itself sets 4
    assert settings("class_balanced_sampling", *command)["classifier"].samples_per_class == 2
    # the recipe has this one in both stages, and the command line leaves it out of the first
    student = (
        "recipe=noisy_student",
        "methods.noisy_student.threshold=0.5",
        "methods.ema.decay=0.5",
    )
    assert settings("noisy_student", *student)["student"].threshold == 0.5
    assert [node.decay for node in settings("ema", *student).values()] == [0.5, 0.5]
    without = settings("ema", *student, "stages.teacher=['averaging=none']")
    assert list(without) == ["student"] and without["student"].decay == 0.5
    own = (
        "recipe=supervised",
        "stages={a: [], b: ['semi_supervised=fixmatch']}",
        "methods.fixmatch.threshold=0.5",
    )
    assert settings("fixmatch", *own)["b"].threshold == 0.5


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (
            "long_tail=focal_loss",
            r"stages\.classifier: long_tail=focal_loss: this stage makes its own choice",
        ),
        (
            "stages.classifier=['trainer.max_stepz=3']",
            r"stages\.classifier: trainer\.max_stepz: unknown key; did",
        ),
        (
            "stages.classifier=['trainer.max_steps=-3']",
            r"stages\.classifier: trainer\.max_steps: got -3, expected",
        ),
        ("stages.classifier=3", r"stages: got .*expected"),
        (
            "methods.crt.bm=drift",
            r"stages\.classifier: methods\.\w+\.bm: unknown key",
        ),
        (
            "methods.crt.bn=3",
            r"stages\.classifier: methods\.\w+\.bn: got 3, expected",
        ),
        (
            "methods.crtt.bn=drift",
            r"^methods\.crtt\.bn: .*'crt'\?$",
        ),
        (
            "methods.fixmatch.threshold=0.5",
            r"^methods\.fixmatch\.threshold: no stage .* add semi_supervised=fixmatch",
        ),
        (
            "stages.classifier=['methods.fixmatch.threshold=0.5']",
            r"stages\.classifier: methods\.fixmatch\.thr",
        ),
        (
            "evaluate.attack.eps=0.1",
            r"^evaluate\.attack\.eps: this run has no attack; add evaluate\.attack=NAME",
        ),
    ],
)
def test_mistakes_in_a_stage_are_reported_before_anything_starts(extra, line):
    with pytest.raises(ConfigErrors, match=line):
        resolve_command([*CRT, extra, "run_dir=unused"])


def test_methods_that_cannot_meet_in_a_later_stage_are_reported_first(place):
    stage = "stages.classifier=['long_tail=[balanced_softmax,class_balanced_sampling]']"
    outcome = roux(*QUIET, *SIX, stage, "run_dir=never")
    assert outcome.code == 2 and "stages.classifier: long_tail=balanced_softmax and" in outcome.err
    assert not (place / "never").exists()


def test_resuming_elsewhere_is_refused(place, whole):
    outcome = roux(*QUIET, *SIX, "run_dir=other", f"resume={whole}")
    assert outcome.code == 2 and "resumes in its own folder" in outcome.err
    outcome = roux(*QUIET, *SIX, f"run_dir={whole}")
    assert outcome.code == 2 and "holds a run already" in outcome.err
