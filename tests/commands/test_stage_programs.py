"""Recipes with programs and loops as users run them: what stages hand on, where a loop ends, and
that a run that was killed anywhere ends with the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file

import recipes
from tests.support.command import QUIET, roux, train
from tests.support.killed_runs import begin, differences, finish, state

NOTE = "tests.support.stage_programs.Note"
KILL = "tests.support.stage_programs.KillAt"
SHORT = (
    "recipe=supervised",
    "network.name=digits_cnn",
    "+network.options.width=4",
    "data.labels_per_class=4",
    "data.batch_size=8",
    "trainer.max_steps=6",
    "trainer.val_every=3",
    "trainer.log_every=2",
    "checkpoint.every_n_steps=2",
)


def loop(*, times: int = 3, stop_at: int = 2, killed: str = "null") -> str:
    """Three rounds at most of a run and a program; then a run from the last round's weights."""
    note = f'_target_: {NOTE}, run: "{{train}}", runs: ["{{first}}", "{{train.best}}"]'
    note += f', number: "{{i}}", stop_at: {stop_at}, killed: {killed}'
    train = '["seed={i}"]'
    body = f"train: {train}, note: {{program: {{{note}}}}}"
    rounds = f"{{repeat: {{times: {times}, until: note}}, stages: {{{body}}}}}"
    last = "[\"network.checkpoint='{train}'\"]"
    return f"stages={{first: [], rounds: {rounds}, last: {last}}}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loops") / "whole"
    train(folder, *SHORT, loop())
    return folder


def done(folder):
    return json.loads((folder / "stages.json").read_text())


def test_a_loop_ends_where_its_program_says_stop(whole):
    figures = done(whole)
    assert list(figures) == [
        "first", "train_1", "note_1", "train_2", "note_2", "train_3", "note_3", "last",
    ]  # fmt: skip
    assert [figures[f"note_{i}"].get("stop") for i in (1, 2, 3)] == [0.0, 1.0, None]
    assert figures["train_3"] == figures["note_3"] == {"left_out": 1.0}
    assert not (whole / "train_3").exists() and not (whole / "note_3").exists()


def test_programs_get_paths_of_what_stages_left(whole):
    note = json.loads((whole / "note_2" / "note.json").read_text())
    assert note["run"] == str(whole / "train_2" / "checkpoints" / "last.ckpt")
    assert note["runs"] == [
        str(whole / "first" / "checkpoints" / "last.ckpt"),
        str(whole / "train_2" / "checkpoints" / "best.ckpt"),
    ]
    assert note["number"] == 2


def test_after_the_loop_its_last_round_is_named(whole):
    config = (whole / "last" / "config.yaml").read_text()
    assert f"checkpoint: {whole}/train_2/checkpoints/last.ckpt" in config
    # the run's model is that of the last stage that trained
    assert recipes.load(whole) is not None


def test_the_plan_shows_the_loop(whole):
    plan = (whole / "plan.txt").read_text()
    assert "loop rounds: at most 3 rounds of train, note; ends when note says stop" in plan
    assert "stage train_2: as train_1, seed=2, data.split_seed=2, data.seed=2, begins" in plan
    assert "stage note_1: Note, run={train_1}, runs=[" in plan and "leaves note" in plan


def test_a_finished_loop_is_left_alone(whole):
    outcome = roux(*QUIET, *SHORT, loop(), f"run_dir={whole}", "resume=auto")
    assert outcome.code == 0 and "finished already" in outcome.out


def test_more_rounds_of_a_finished_recipe_are_refused(whole):
    command = (*QUIET, *SHORT, loop(times=4, stop_at=9), f"run_dir={whole}", f"resume={whole}")
    outcome = roux(*command)
    assert outcome.code == 2, outcome.err
    assert "stages.last: is finished, and the stage train_4 before it is not" in outcome.err


def test_a_program_that_forgets_its_artifact_is_named(place):
    stages = "{a: [], n: {program: {_target_: tests.support.stage_programs.Forgetful}}}"
    outcome = roux(*QUIET, *SHORT, f"stages={stages}", "run_dir=run")
    assert outcome.code == 2
    assert "Forgetful has not written 'note.json', its artifact 'note'" in outcome.err


def test_a_run_begins_with_the_weights_of_a_program(place):
    halve = 'program: {_target_: tests.support.stage_programs.Halve, run: "{a}"}'
    stages = f"stages={{a: [], h: {{{halve}}}, b: []}}"
    still = ("stages.b.trainer.max_steps=1", "stages.b.optimizer.lr=1e-12")
    outcome = train(place / "run", *SHORT, stages, *still)
    assert outcome.code == 0
    assert "stage b, begins with the weights of h" in (place / "run" / "plan.txt").read_text()
    first = torch.load(place / "run/a/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    last = torch.load(place / "run/b/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    name = "network.heads.label.weight"
    torch.testing.assert_close(last[name], first[name] / 2, atol=1e-6, rtol=0)
    halved = load_file(place / "run" / "h" / "weights.safetensors")
    assert torch.equal(halved["heads.label.weight"], first[name] / 2)


# -- kills -----------------------------------------------------------------------------------------
COMMAND = (*SHORT, "trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")


def killing(at: str, marker) -> tuple[str, ...]:
    """The command that is killed once: in a step of the second round, between its test and the
    next stage, or inside its program."""
    if at == "program":
        return (*COMMAND, loop(killed=f'"{marker}"'))
    kill = f"stages.train_2.callbacks={{kill: {{_target_: {KILL}, marker: '{marker}', at: {at}}}}}"
    return (*COMMAND, loop(), kill)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["step", "test", "program"])
def test_a_kill_inside_a_loop_changes_no_bit(at, tmp_path):
    finish([*COMMAND, loop()], tmp_path / "whole")
    marker = tmp_path / "killed"
    command = list(killing(at, marker))
    process = begin(command, tmp_path / "cut")
    process.join()
    assert process.exitcode == -9 and marker.exists()
    assert "last" not in done(tmp_path / "cut")
    finish(command, tmp_path / "cut")
    assert differences(state(tmp_path / "whole"), state(tmp_path / "cut")) == set()
    notes = [(tmp_path / run / "note_2/note.json").read_text() for run in ("whole", "cut")]
    assert notes[0].replace("/whole/", "/cut/") == notes[1]
