"""The search: its space, its trials over a stand-in for the engine, restart, and pruning."""

import math
import os
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from foundation.errors import UserError
from recipes.cli import main as cli
from recipes.sweeps.record import jobs_of
from tests.support.command_line import Engine

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from recipes.sweeps.pruning import PruningCallback  # noqa: E402
from recipes.sweeps.search import OptunaSweeper, open_storage  # noqa: E402
from recipes.sweeps.space import read_space  # noqa: E402

SEARCH = ["-m", "hydra/sweeper=roux_optuna", "run_dir=search"]
RATE = "optimizer.lr=tag(log,interval(1e-3,1.0))"


def space(*overrides):
    return read_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    "override, expected",
    [
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("a=int(interval(1,8))", IntDistribution(1, 8)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("a=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("a=choice(x,[y,z],true)", CategoricalDistribution(["x", "[y,z]", "True"])),
        ("a=1,2.5", CategoricalDistribution(["1", "2.5"])),
    ],
)
def test_hydras_words_in_optunas(override, expected):
    assert space(override).searched == {"a": expected}


def test_a_trial_is_run_for_every_seed():
    found = space("a=interval(0,1)", "b=3", "seed=0,1")
    runs = [job.overrides for job in found.jobs({"a": 0.25})]
    assert runs == [["b=3", "a=0.25", "seed=0"], ["b=3", "a=0.25", "seed=1"]]


@pytest.mark.parametrize(
    "override", ["a=1", "seed=0,1", "a=tag(log,interval(0,1))", "a=tag(log,range(1,5))"]
)
def test_what_cannot_be_searched(override):
    with pytest.raises(UserError):
        space(override)


@pytest.mark.parametrize(
    "content",
    [b"[1]\n[2]\n", b"half {\n{}\n", b"\x80\x04.\n\n", b'{"op_code": 99}\n{}\n', "", "fifo"],
)
def test_a_journal_that_holds_something_else_is_one_line(tmp_path, content):
    path = tmp_path / "journal"
    if content == "":
        path.mkdir()
    elif content == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    sweeper = OptunaSweeper(storage=str(path))
    sweeper.folder = tmp_path
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage") as caught:
        sweeper.open()
    assert "\n" not in str(caught.value)


def peak(config):
    """Best at a rate of 0.1."""
    return {"val/accuracy": 1 - abs(math.log10(config.optimizer.lr) + 1) / 3 + config.seed / 1000}


def study_of(tmp_path, address=None):
    storage = open_storage(address or str(tmp_path / "search" / "optuna.journal"))
    return optuna.load_study(study_name="roux", storage=storage)


@pytest.mark.parametrize("storage", [None, "sqlite:///search.db"])
def test_a_search_continues_where_it_was(storage, configs, engine, tmp_path):
    engine.answer = peak
    where = [f"hydra.sweeper.storage={storage}"] if storage else []
    assert (
        cli.main(
            [*SEARCH, *where, RATE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"], configs
        )
        == 0
    )
    assert len(engine.runs) == 3
    assert cli.main([*SEARCH, *where, RATE, "hydra.sweeper.n_trials=5"], configs) == 0
    assert len(engine.runs) == 5
    study = study_of(tmp_path, storage)
    assert study.best_value == pytest.approx(
        max(peak(c)["val/accuracy"] for c, _, _ in engine.runs)
    )
    assert sorted(jobs_of(tmp_path / "search")) == [0, 1, 2, 3, 4]


def test_a_failed_trial_is_tried_again_when_asked_again(configs, engine, tmp_path):
    def answer(config):
        if len(engine.runs) == 2:
            raise ZeroDivisionError("a bug")
        return peak(config)

    engine.answer = answer
    command = [*SEARCH, RATE, "hydra.sweeper.n_trials=3"]
    assert cli.main(command, configs) == 1 and len(engine.runs) == 3
    engine.answer = peak
    assert cli.main(command, configs) == 0
    assert (
        len(engine.runs) == 4 and engine.runs[3][0].optimizer.lr == engine.runs[1][0].optimizer.lr
    )


def test_an_interrupted_trial_is_run_to_its_end(configs, engine, tmp_path):
    command = [*SEARCH, RATE, "hydra.sweeper.n_trials=1"]
    engine.answer = Engine().answer
    engine.error = KeyboardInterrupt()
    cli.main(command, configs)
    engine.error = None
    assert cli.main(command, configs) == 0
    assert engine.runs[0][0].optimizer.lr == engine.runs[1][0].optimizer.lr
    assert [t.state.name for t in study_of(tmp_path).trials] == ["COMPLETE"]


def test_a_trial_of_several_seeds_is_their_mean(configs, engine, tmp_path):
    engine.answer = peak
    assert cli.main([*SEARCH, RATE, "seed=0,10", "hydra.sweeper.n_trials=2"], configs) == 0
    config = engine.runs[0][0]
    assert study_of(tmp_path).trials[0].value == pytest.approx(peak(config)["val/accuracy"] + 0.005)


def test_a_loss_is_minimized(configs, engine, tmp_path):
    engine.answer = lambda config: {"val/loss": config.optimizer.lr}
    assert (
        cli.main(
            [*SEARCH, RATE, "hydra.sweeper.metric=val/loss", "hydra.sweeper.n_trials=2"], configs
        )
        == 0
    )
    assert study_of(tmp_path).best_value == min(c.optimizer.lr for c, _, _ in engine.runs)


MISTAKES = {
    "hydra.sweeper.pruner=median seed=0,1": "hydra.sweeper.pruner=median: compares single runs",
    "hydra.sweeper.pruner=median hydra.sweeper.metric=test/accuracy": "test/accuracy is not a validation metric",
    "hydra.sweeper.sampler=cmaes": "hydra.sweeper.sampler: got 'cmaes'",
    "hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials: got 0",
    "+hydra.sweeper.trials=3": "hydra.sweeper.trials: unknown key",
    "+hydra.sweeper.sampler_options.depth=3": "hydra.sweeper.sampler_options: ",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_a_line_and_starts_nothing(mistake, configs, engine, capsys):
    assert cli.main([*SEARCH, RATE, *mistake.split()], configs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert MISTAKES[mistake] in line and engine.runs == []


def test_a_run_that_does_worse_than_the_others_is_stopped(tmp_path):
    address = str(tmp_path / "optuna.journal")
    study = optuna.create_study(study_name="s", storage=open_storage(address), direction="maximize")
    for value in (0.8, 0.9):
        trial = study.ask({"a": FloatDistribution(0, 1)})
        trial.report(value, 10)
        study.tell(trial, value)
    reasons = {}
    for value in (0.95, 0.5):
        trial = study.ask({"a": FloatDistribution(0, 1)})
        watch = PruningCallback(
            address, "s", trial.number, "val/accuracy", "median", {"n_startup_trials": 1}
        )
        trainer = SimpleNamespace(
            callback_metrics={"val/accuracy": value},
            global_step=10,
            max_steps=20,
            is_global_zero=True,
            should_stop=False,
            strategy=SimpleNamespace(broadcast=lambda x: x),
            state=SimpleNamespace(fn="fit"),
        )
        watch.on_validation_end(trainer, None)
        watch.on_validation_end(trainer, None)  # the same step once more, as after a resume
        reasons[value] = (trainer.should_stop, watch.reason)
    assert reasons[0.95] == (False, "")
    assert reasons[0.5] == (True, "at step 10 with val/accuracy 50.00 % by the median pruner")


def test_the_last_validation_prunes_nothing(tmp_path):
    watch = PruningCallback(str(tmp_path / "none"), "s", 0, "val/accuracy", "median", {})
    trainer = SimpleNamespace(
        callback_metrics={"val/accuracy": 0.1},
        global_step=20,
        max_steps=20,
        state=SimpleNamespace(fn="fit"),
    )
    watch.on_validation_end(trainer, None)
    assert watch.reason == "" and not (tmp_path / "none").exists()
