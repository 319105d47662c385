"""The command line from its arguments to the engine's door: what runs, and how each mistake is
reported."""

import json
import os

import pytest

from foundation.errors import UserError
from recipes.cli import check_sweep
from recipes.cli import main as cli
from recipes.runs.start import RUN
from recipes.setup.spec import Result
from tests.support.command import after_first_line
from tests.support.command_line import Engine, install


def lines_of(capsys):
    return after_first_line(capsys.readouterr().err)


# -- what runs --
def test_a_run_gets_a_resolved_config_and_its_command(configs, engine):
    assert cli.main(["recipe=fixmatch", "seed=3"], configs) == 0
    ((config, command, _),) = engine.runs
    assert command == ["recipe=fixmatch", "seed=3"]
    assert (config.recipe, config.seed, config.trainer.max_steps) == ("fixmatch", 3, 50)
    assert config.run_dir.startswith("outputs/fixmatch/20") and "hydra" not in config
    assert list(config.methods) == ["fixmatch"]


def test_recipe_wins_over_the_groups_and_the_command_over_both(configs, engine):
    cli.main(["recipe=fixmatch"], configs)
    cli.main(["recipe=fixmatch", "methods.fixmatch.tau=0.7"], configs)
    assert [config.methods.fixmatch.tau for config, _, _ in engine.runs] == [0.9, 0.7]


def test_families_combine_and_take_lists(configs, engine):
    assert (
        cli.main(
            ["recipe=fixmatch", "semi_supervised=[fixmatch,mean_teacher]", "peft=lora"], configs
        )
        == 0
    )
    (config, _, _) = engine.runs[0]
    assert set(config.methods) == {"fixmatch", "mean_teacher", "lora"}
    assert (config.chosen.semi_supervised, config.chosen.peft) == (
        "[fixmatch,mean_teacher]",
        "lora",
    )
    assert config.chosen.multi_task == "none"


def test_leftovers_of_a_replaced_method_are_dropped(configs, engine):
    assert cli.main(["recipe=fixmatch", "semi_supervised=mean_teacher"], configs) == 0
    assert list(engine.runs[0][0].methods) == ["mean_teacher"]


def test_options_of_an_optimizer_are_added_with_a_plus(configs, engine):
    assert cli.main(["optimizer=adamw", "+optimizer.options.amsgrad=true"], configs) == 0
    assert engine.runs[0][0].optimizer.options == {"amsgrad": True}


def test_methods_outside_the_repository_are_found(configs, engine, tmp_path, monkeypatch):
    (tmp_path / "own" / "peft").mkdir(parents=True)
    (tmp_path / "own" / "peft" / "mine.yaml").write_text(
        "# @package methods.mine\n_target_: mine_module.Mine\nsize: 2\n"
    )
    (tmp_path / "mine_module.py").write_text(
        "from recipes.contract import Method\n\n\n"
        "class Mine(Method):\n    def __init__(self, size: int = 1): ...\n"
    )
    searchpath = f"hydra.searchpath=[file://{tmp_path}/own]"
    assert cli.main([searchpath, "peft=mine"], configs) == 0
    assert engine.runs[0][0].methods.mine.size == 2
    assert cli.main([searchpath, "peft=mine", "methods.mine.size=x"], configs) == 2


# -- mistakes --
MISTAKES = {
    "recipe": (
        ["recipe=fixmtch"],
        "recipe=fixmtch: there is no recipe 'fixmtch'; did you mean 'fixmatch'?",
    ),
    "method": (["peft=lroa"], "peft=lroa: there is no peft 'lroa'; did you mean 'lora'?"),
    "method in a list": (
        ["semi_supervised=[fixmatch,mean_techer]"],
        "semi_supervised=mean_techer: there is no semi_supervised 'mean_techer'; did you mean "
        "'mean_teacher'?",
    ),
    "family": (
        ["peft=fixmatch"],
        "peft=fixmatch: 'fixmatch' is of another family; write semi_supervised=fixmatch",
    ),
    "group": (
        ["semi_supervisd=fixmatch"],
        "semi_supervisd: unknown key; did you mean 'semi_supervised'?",
    ),
    "key": (["sed=1"], "sed: unknown key; did you mean 'seed'?"),
    "key elsewhere": (["lr=1"], "lr: unknown key; did you mean 'optimizer.lr'?"),
    "nested key": (["data.rot=x"], "data.rot: unknown key; did you mean 'data.root'?"),
    "added nested key": (
        ["+optimizer.momentm=1"],
        "optimizer.momentm: unknown key; did you mean 'optimizer.momentum'?",
    ),
    "absent method": (
        ["methods.lora.rank=2"],
        "methods.lora.rank: method 'lora' is not part of this run; add peft=lora",
    ),
    "absent method, added": (
        ["+methods.lora.rank=2"],
        "methods.lora.rank: method 'lora' is not part of this run; add peft=lora",
    ),
    "absent method beside another": (
        ["recipe=fixmatch", "methods.mean_teacher.tau=0.1"],
        "methods.mean_teacher.tau: method 'mean_teacher' is not part of this run; "
        "add semi_supervised=[fixmatch,mean_teacher]",
    ),
    "replaced method": (
        ["recipe=fixmatch", "semi_supervised=mean_teacher", "methods.fixmatch.tau=0.1"],
        "methods.fixmatch.tau: method 'fixmatch' is not part of this run; add "
        "semi_supervised=[mean_teacher,fixmatch]",
    ),
    "unknown method": (
        ["peft=lora", "+methods.lroa.rank=2"],
        "methods.lroa.rank: there is no method 'lroa' in this run; did you mean 'lora'?",
    ),
    "type": (
        ["trainer.max_steps=many"],
        "trainer.max_steps: got 'many', expected a whole number at least 0",
    ),
    "range": (
        ["recipe=fixmatch", "methods.fixmatch.tau=1.5"],
        "methods.fixmatch.tau: got 1.5, expected a number between 0 and 1",
    ),
    "open value": (
        ["optimizer=named"],
        "optimizer.name: has no value yet; give one: optimizer.name=…",
    ),
    "sweep without -m": (
        ["seed=0,1"],
        "seed=0,1: several values make several runs: add -m, or seed=[0,1] for a list",
    ),
    "brackets": (
        ["semi_supervised=[fixmatch"],
        "semi_supervised=[fixmatch: the brackets do not match",
    ),
    "no value": (["dry_run"], "dry_run: expected KEY=VALUE or GROUP=NAME"),
    "no key": (["=1"], "=1: expected KEY=VALUE or GROUP=NAME"),
    "null choice": (["data=null"], "data=null: choose a name for data; known: digits, docstrings"),
    "two recipes": (
        ["recipe=[fixmatch,supervised]"],
        "recipe=[fixmatch,supervised]: takes one choice, only families take a list",
    ),
    "plus on a group": (
        ["+data=digits"],
        "+data=digits: 'data' has a choice already; leave out the +",
    ),
    "search path": (
        ["hydra.searchpath=[file:///nowhere]"],
        "hydra.searchpath: there is no '/nowhere'; give file:///FOLDER or pkg://PACKAGE",
    ),
    "deleted section": (["~trainer"], "trainer: is missing; choose one by trainer=NAME"),
    "free mapping": (
        ["optimizer.options.amsgrad=true"],
        "optimizer.options.amsgrad: unknown key; to add it write +optimizer.options.amsgrad=True",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_mistake_is_one_line_and_starts_nothing(kind, configs, engine, capsys, tmp_path):
    argv, line = MISTAKES[kind]
    assert cli.main(argv, configs) == 2
    assert lines_of(capsys) == [f"error: {line}"]
    assert engine.runs == [] and list(tmp_path.iterdir()) == []


def test_all_mistakes_of_a_command_come_at_once(configs, engine, capsys):
    argv = ["recipe=fixmtch", "sed=1", "trainer.max_steps=-1", "peft=lroa", "+methods.x.y=1"]
    assert cli.main(argv, configs) == 2
    starts = [line.removeprefix("error: ").split(":")[0] for line in lines_of(capsys)]
    assert starts == ["recipe=fixmtch", "peft=lroa", "sed", "methods.x.y", "trainer.max_steps"]


def test_a_folder_that_holds_a_run_is_left_alone(configs, engine, capsys, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert cli.main([f"run_dir={tmp_path}"], configs) == 2
    assert "holds a run already" in lines_of(capsys)[0]
    assert engine.runs == [] and [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_that_cannot_be_written_and_a_false_checkpoint(configs, engine, capsys, tmp_path):
    (tmp_path / "file").write_text("no checkpoint")
    assert cli.main([f"run_dir={tmp_path}/file/run", f"resume={tmp_path}/file"], configs) == 2
    starts = [line.removeprefix("error: ").split(":")[0] for line in lines_of(capsys)]
    assert starts == ["run_dir", "resume"] and engine.runs == []


def test_a_mistake_found_while_running_is_a_line_too(configs, engine, capsys):
    engine.error = UserError("data.root: no such folder")
    assert cli.main([], configs) == 2
    assert lines_of(capsys) == ["error: data.root: no such folder"]


def test_a_bug_keeps_its_traceback_and_an_interruption_its_code(configs, engine):
    engine.error = KeyboardInterrupt()
    assert cli.main([], configs) == 130
    engine.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main([], configs)


# -- further ranks --
def test_further_ranks_use_the_folder_of_the_first(configs, engine, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        Engine, "run", lambda self, spec: seen.append(os.environ.get(RUN)) or Result({})
    )
    install(Engine(), monkeypatch)
    cli.main([f"run_dir={tmp_path}/run"], configs)
    assert json.loads(seen[0]) == [f"{tmp_path}/run", None] and RUN not in os.environ
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    further = install(Engine(), monkeypatch)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("rank 0 has begun")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(RUN, seen[0])
    assert cli.main(["resume=auto"], configs) == 0
    config = further.runs[0][0]
    assert (config.run_dir, config.resume) == (f"{tmp_path}/run", None)


# -- many runs --
def test_a_multirun_gives_every_job_its_folder_and_its_own_command(configs, engine, tmp_path):
    assert (
        cli.main(
            ["-m", "recipe=supervised,fixmatch", "seed=0,1", f"run_dir={tmp_path}/sweep"], configs
        )
        == 0
    )
    folders = [config.run_dir for config, _, _ in engine.runs]
    assert folders == [f"{tmp_path}/sweep/{i}" for i in range(4)]
    assert [(c.recipe, c.seed) for c, _, _ in engine.runs] == [
        ("supervised", 0),
        ("supervised", 1),
        ("fixmatch", 0),
        ("fixmatch", 1),
    ]
    assert engine.runs[3][1] == ["recipe=fixmatch", "seed=1", f"run_dir={folders[3]}"]


def test_an_old_key_in_a_sweep_is_translated_with_one_line(configs, engine, capsys, tmp_path):
    sweep = ["-m", "trainer.update=foreach,loop", f"run_dir={tmp_path}/sweep"]
    assert cli.main(sweep, configs) == 0
    assert [config.trainer.optimizer_impl for config, _, _ in engine.runs] == ["foreach", "loop"]
    assert len([line for line in lines_of(capsys) if "trainer.optimizer_impl" in line]) == 1


def test_a_multirun_of_a_method_of_ones_own_with_the_flag_anywhere(configs, engine, tmp_path):
    own = tmp_path / "own" / "peft"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package methods.mine\n_target_: tests.support.command_line.LowRank\nrank: 2\n"
    )
    searchpath = f"hydra.searchpath=[file://{tmp_path}/own]"
    sweep = [
        "recipe=supervised",
        searchpath,
        "-m",
        "peft=mine",
        "seed=0,1",
        f"run_dir={tmp_path}/sweep",
    ]
    assert cli.main(sweep, configs) == 0
    assert [config.seed for config, _, _ in engine.runs] == [0, 1]
    assert all(config.methods.mine.rank == 2 for config, _, _ in engine.runs)
    assert cli.main(sweep, configs) == 0 and len(engine.runs) == 2


def test_a_multirun_with_one_faulty_job_starts_none(configs, engine, capsys, tmp_path):
    assert cli.main(["-m", "recipe=supervised,fixmtch", "trainer.max_steps=5,-1"], configs) == 2
    starts = [line.removeprefix("error: ").split(":")[0] for line in lines_of(capsys)]
    assert sorted(starts) == ["recipe=fixmtch", "trainer.max_steps"]
    assert engine.runs == [] and list(tmp_path.iterdir()) == []


def test_jobs_may_not_share_a_folder(configs, engine, capsys, tmp_path):
    assert cli.main(["-m", "seed=0,1", f"run_dir={tmp_path}/${{recipe}}"], configs) == 2
    assert "2 jobs would share" in lines_of(capsys)[0]
    assert engine.runs == []


def test_a_large_sweep_checks_every_value_once(configs, engine, capsys, monkeypatch):
    monkeypatch.setattr(check_sweep, "FULL_CHECK", 2)
    argv = ["-m", "seed=range(0,3)", "trainer.max_steps=1,-1"]
    assert cli.main(argv, configs) == 2
    assert lines_of(capsys) == [
        "error: trainer.max_steps: got -1, expected a whole number at least 0"
    ]


def test_a_mistake_within_a_job_is_a_line(configs, engine, capsys):
    engine.error = UserError("data.root: no such folder")
    assert cli.main(["-m", "seed=0"], configs) == 1
    assert "job 0, seed 0: failed: data.root: no such folder" in capsys.readouterr().out


def test_hydra_flags_reach_hydra(configs, engine, capsys):
    assert cli.main(["--cfg", "job", "recipe=fixmatch"], configs) == 0
    assert "tau: 0.9" in capsys.readouterr().out and engine.runs == []
