"""Jobs keep their number as long as their overrides are the same."""

from recipes.sweeps.record import Job, assign_numbers, identity, jobs_of, read_job, write_job


def test_a_record_comes_back_as_it_was(tmp_path):
    job = Job(
        ["seed=0"], "seed=0", state="done", metrics={"val/accuracy": 0.5}, monitor="val/accuracy"
    )
    write_job(tmp_path / "3", job)
    assert read_job(tmp_path / "3") == job and jobs_of(tmp_path) == {3: job}
    assert job.value == 0.5 and read_job(tmp_path / "4") is None


def test_half_a_record_is_none(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text('{"overrides": [')
    assert jobs_of(tmp_path) == {}


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
