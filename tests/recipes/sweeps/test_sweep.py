"""`-m` from the command line to the table, over a stand-in for the engine: what fails stops
nothing, and asking again runs what is missing."""

import csv
import json
import subprocess
import sys

import pytest

from foundation.errors import UserError
from foundation.exit_codes import INTERRUPTED
from recipes.cli import main as cli
from recipes.cli.multirun import redirect_sweep
from recipes.sweeps import process
from tests.support.command_line import Engine

ASK = ["-m", "optimizer.lr=0.01,0.1", "seed=0,1", "run_dir=sweep"]


def fails(lr, seed, error):
    def answer(config):
        if (config.optimizer.lr, config.seed) == (lr, seed):
            raise error
        return {"val/accuracy": config.optimizer.lr + config.seed / 100}

    return answer


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), UserError("data.root: gone")], ids=lambda e: str(e)
)
def test_a_failed_job_stops_no_other_and_is_tried_again_alone(
    error, configs, engine, capsys, tmp_path
):
    engine.answer = fails(0.01, 1, error)
    assert cli.main(ASK, configs) == 1
    assert len(engine.runs) == 4 and str(error) in capsys.readouterr().out
    engine.answer = Engine().answer
    assert cli.main(ASK, configs) == 0
    assert [(c.optimizer.lr, c.seed) for c, _, _ in engine.runs[4:]] == [(0.01, 1)]
    assert cli.main(ASK, configs) == 0 and len(engine.runs) == 5


def test_more_values_are_added_to_a_sweep(configs, engine, tmp_path):
    assert cli.main(ASK, configs) == 0
    assert cli.main(["-m", "optimizer.lr=0.1,0.3", "seed=1,2", "run_dir=sweep"], configs) == 0
    new = [(c.run_dir.rpartition("/")[2], c.optimizer.lr, c.seed) for c, _, _ in engine.runs[4:]]
    assert new == [("4", 0.1, 2), ("5", 0.3, 1), ("6", 0.3, 2)]
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert {row["optimizer.lr"]: row["runs"] for row in rows} == {
        "0.01": "2",
        "0.1": "3",
        "0.3": "2",
    }


def test_a_killed_process_is_told_and_begun_again(configs, engine, capsys, monkeypatch, tmp_path):
    inside, killed = process.spawn, []

    def spawn(arguments, log, lock):
        if "seed=1" in arguments and not killed:
            killed.append(arguments)
            return -9
        return inside(arguments, log, lock)

    monkeypatch.setattr(process, "spawn", spawn)
    assert cli.main(["-m", "seed=0,1,2", "run_dir=sweep"], configs) == 1
    assert "job 1, seed 1: killed by SIGKILL" in capsys.readouterr().out and len(engine.runs) == 2
    assert cli.main(["-m", "seed=0,1,2", "run_dir=sweep"], configs) == 0
    assert json.loads((tmp_path / "sweep" / "1" / "job.json").read_text())["attempts"] == 2


def test_ctrl_c_ends_the_sweep_with_its_table(configs, engine, capsys, monkeypatch, tmp_path):
    engine.answer = fails(0.01, 1, KeyboardInterrupt())
    inside = process.spawn

    def spawn(arguments, log, lock):
        code = inside(arguments, log, lock)
        if code == INTERRUPTED:
            raise KeyboardInterrupt  # it reaches the whole group
        return code

    monkeypatch.setattr(process, "spawn", spawn)
    assert cli.main(ASK, configs) == INTERRUPTED
    assert len(engine.runs) == 2 and "stopped: interrupted" in capsys.readouterr().out
    assert (tmp_path / "sweep" / "sweep.html").is_file()


def test_a_dry_run_of_many_starts_no_process(configs, engine, tmp_path):
    assert cli.main([*ASK, "dry_run=true"], configs) == 0
    assert len(engine.runs) == 4 and list(tmp_path.iterdir()) == []


def test_an_interval_needs_a_search(configs, engine, capsys):
    assert cli.main(["-m", "optimizer.lr=interval(0.1,0.2)"], configs) == 2
    assert "add hydra/sweeper=roux_optuna" in capsys.readouterr().err and engine.runs == []


def test_a_folder_of_a_run_is_no_folder_for_a_sweep(configs, engine, capsys, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "metrics.json").touch()
    assert cli.main(ASK, configs) == 2 and engine.runs == []
    assert "holds a run already" in capsys.readouterr().err


def test_folders_of_the_users_choice(configs, engine, tmp_path):
    own = ["-m", "seed=0,1", "run_dir=own/${seed}", "hydra.sweep.dir=sweep"]
    assert cli.main(own, configs) == 0
    assert [c.run_dir for c, _, _ in engine.runs] == [f"{tmp_path}/own/0", f"{tmp_path}/own/1"]
    assert cli.main(own, configs) == 0 and len(engine.runs) == 2
    assert sorted(p.name for p in (tmp_path / "sweep").glob("[01]/job.json")) == [
        "job.json",
        "job.json",
    ]


@pytest.mark.parametrize("written", ["'a,b'", '"a,b"', "a\\,b"])
def test_a_comma_that_separates_nothing_is_part_of_the_sweeps_folder(
    written, configs, engine, tmp_path
):
    assert cli.main(["-m", "seed=0,1", f"run_dir={written}"], configs) == 0
    assert [c.run_dir for c, _, _ in engine.runs] == [f"{tmp_path}/a,b/0", f"{tmp_path}/a,b/1"]
    assert (tmp_path / "a,b" / "sweep.html").is_file()


@pytest.mark.parametrize("written", ["a,b", "choice(a,b)", "own/${seed}"])
def test_folders_that_differ_by_job_are_no_folder_of_the_sweep(written):
    assert redirect_sweep(["-m", f"run_dir={written}"]) == ["-m", f"run_dir={written}"]


@pytest.mark.parametrize("written", ["[a,b]", "null", "'a"])
def test_a_folder_that_is_no_name_is_one_line(written, configs, engine, capsys, tmp_path):
    assert cli.main(["-m", "seed=0,1", f"run_dir={written}"], configs) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: run_dir")
    assert engine.runs == [] and list(tmp_path.iterdir()) == []


def test_a_plugin_costs_a_single_run_no_heavy_import():
    heavy = {"torch", "optuna", "ray", "matplotlib"}
    code = f"import sys, hydra_plugins.roux; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": process.search_path()},
    )
    assert found.stdout == "[]\n", found.stderr
