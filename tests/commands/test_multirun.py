"""`-m`: many runs, each in a folder of its own, none of them started where one is wrong."""

import json

import pytest
from omegaconf import OmegaConf

from tests.support.command import QUIET, roux, snapshot

STAGED = (
    *("-m", "recipe=crt", "methods.crt.bn=freeze,drift", "run_dir=sweep"),
    *("trainer.max_steps=3", "data.imbalance_factor=20", *QUIET),
)


def test_two_seeds_make_two_runs(place):
    outcome = roux("-m", "seed=0,1", "trainer.max_steps=3", "run_dir=sweep", *QUIET)
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in (place / "sweep").iterdir() if p.is_dir()) == ["0", "1"]
    losses = []
    for seed in (0, 1):
        folder = place / "sweep" / str(seed)
        assert OmegaConf.load(folder / "config.yaml").seed == seed
        assert (folder / "report.html").is_file() and (
            folder / "checkpoints" / "last.ckpt"
        ).is_file()
        losses.append(json.loads((folder / "metrics.json").read_text())["test/loss"])
    assert losses[0] != losses[1]


WRONG = {
    "value": (
        ["trainer.max_steps=3,-1"],
        "trainer.max_steps: got -1, expected a whole number at least 0",
    ),
    "recipe": (
        ["recipe=supervised,fixmtch"],
        "recipe=fixmtch: there is no recipe 'fixmtch'; did you mean 'fixmatch'?",
    ),
    "folder": (
        ["seed=0,1", "run_dir=file/x"],
        "run_dir: 'file/x' cannot be a folder: '{place}/file' is a file",
    ),
    "folders alone": (
        ["run_dir=a,b"],
        "run_dir: 2 jobs differ in nothing else, and one of them would run; vary a setting as "
        "well, e.g. seed=0,1",
    ),
    "method": (
        ["regularization=none,mixp"],
        "regularization=mixp: there is no regularization 'mixp'; did you mean 'mixup'?",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_one_wrong_job_stops_all_before_the_first(kind, place):
    (place / "file").write_text("in the way")
    arguments, line = WRONG[kind]
    before = snapshot(place)
    outcome = roux("-m", "trainer.max_steps=3", *QUIET, *arguments)
    assert outcome.code == 2 and outcome.lines[0] == f"error: {line.format(place=place)}"
    assert "Traceback" not in outcome.err
    assert snapshot(place) == before


@pytest.mark.slow
def test_a_key_that_only_stages_have_is_swept(place):
    """Hydra composes a recipe without its stages, in the sweep and in each of its jobs."""
    outcome = roux(*STAGED, "dry_run=true")
    assert outcome.code == 0 and outcome.out.count("stage classifier, begins with") == 2, (
        outcome.err
    )
    assert not (place / "sweep").exists()
    outcome = roux(*STAGED, "recipe=supervised,crt")
    assert outcome.code == 2
    assert outcome.lines[0].startswith("error: methods.crt.bn: method 'crt' is not")


@pytest.mark.slow
def test_jobs_of_stages_get_their_keys(place):
    outcome = roux(*STAGED)
    assert outcome.code == 0, outcome.err
    found = [OmegaConf.load(place / "sweep" / n / "config.yaml").stages.classifier for n in "01"]
    assert [stage.methods.crt.bn for stage in found] == ["freeze", "drift"]
    assert "methods.crt.bn" in (place / "sweep" / "sweep.csv").read_text().splitlines()[0]
    outcome = roux(*STAGED)
    assert outcome.code == 0 and "started" not in outcome.out


def test_methods_that_cannot_meet_are_found_before_the_first_job(place):
    before = snapshot(place)
    outcome = roux(
        "-m", "long_tail=none,[balanced_softmax,logit_adjustment]", "trainer.max_steps=3", *QUIET
    )
    assert outcome.code == 2 and "both own the correction of the class prior" in outcome.err
    assert snapshot(place) == before
