"""Jobs keep their number as long as their overrides are the same."""

import os

import pytest

from foundation.errors import UserError
from recipes.sweeps.record import Job, assign_numbers, identity, jobs_of, read_job, write_job


def test_a_record_comes_back_as_it_was(tmp_path):
    job = Job(
        ["seed=0"], "seed=0", state="done", metrics={"val/accuracy": 0.5}, monitor="val/accuracy"
    )
    write_job(tmp_path / "3", job)
    assert read_job(tmp_path / "3") == job and jobs_of(tmp_path) == {3: job}
    assert job.value == 0.5 and read_job(tmp_path / "4") is None


def text(content):
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    "make, said",
    [
        (text('{"overrides": ['), "is not JSON"),
        (text(""), "is not JSON"),
        (text("[" * 100_000), "is not JSON"),
        (text("[]"), "is damaged: found list"),
        (text("null"), "is damaged: found NoneType"),
        (text("{}"), "is damaged: found dict at overrides"),
        (text('{"overrides": "seed=0"}'), "is damaged: found str at overrides"),
        (text('{"overrides": [0]}'), "is damaged: found int at overrides.0"),
        (text('{"overrides": [], "attempts": "3"}'), "is damaged: found str at attempts"),
        (text('{"overrides": [], "metrics": {"a": "b"}}'), "is damaged: found str at metrics.a"),
        (text('{"overrides": [], "trial": "code"}'), "is damaged: found str at trial"),
        (lambda path: path.write_bytes(b"\x80\x04\xff"), "is not JSON"),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to(path.name), "is a link to nothing"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, make, said):
    (tmp_path / "0").mkdir()
    make(tmp_path / "0" / "job.json")
    with pytest.raises(UserError) as caught:
        jobs_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert f"'{tmp_path}/0/job.json' {said}" in str(caught.value)


def test_entries_of_another_version_are_ignored(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text('{"overrides": ["seed=0"], "colour": "red"}')
    assert jobs_of(tmp_path) == {0: Job(["seed=0"])}


def test_what_and_not_where_tells_jobs_apart():
    assert (
        identity(["seed=0", "a=1"])
        == identity(["a=1", "run_dir=x", "hydra.x=y", "seed=0"])
        != identity(["seed=1"])
    )


def test_numbers_stay_and_new_jobs_get_new_ones(tmp_path):
    first = [Job([f"seed={seed}"]) for seed in (0, 1)]
    assert assign_numbers(tmp_path, first) == [0, 1]
    (tmp_path / "2").mkdir()  # somebody else's
    more = [Job([f"seed={seed}"]) for seed in (2, 1, 0, 3)]
    assert assign_numbers(tmp_path, more) == [3, 1, 0, 4]
    assert assign_numbers(tmp_path, [Job(["seed=7"]), Job(["seed=7"])]) == [5, 5]


def test_a_finished_job_is_not_written_again(tmp_path):
    done = Job(["seed=0"], "old", state="done")
    write_job(tmp_path / "0", done)
    assign_numbers(tmp_path, [Job(["seed=0"], "new", trial={"number": 1})])
    assert read_job(tmp_path / "0") == done
