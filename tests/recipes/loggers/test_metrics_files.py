"""metrics.csv and metrics.json: what is on disk, after growth, crash and resume."""

import csv
import json
import math

import pytest

from foundation.errors import UserError
from recipes.loggers.files import MetricsFiles, read_rows


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_wide_and_on_disk_at_once(tmp_path):
    files = MetricsFiles(tmp_path)
    files.log_metrics({"train/loss": 1.0 / 3, "epoch": 0}, step=10)
    assert table(tmp_path / "metrics.csv") == [{"step": "10", "train/loss": repr(1.0 / 3)}]
    files.log_metrics({"val/accuracy": 0.5}, step=10)
    files.log_metrics({"train/loss": 0.25}, step=20)
    assert table(tmp_path / "metrics.csv") == [
        {"step": "10", "train/loss": repr(1.0 / 3), "val/accuracy": "0.5"},
        {"step": "20", "train/loss": "0.25", "val/accuracy": ""},
    ]
    assert files.history == [
        {"step": 10, "train/loss": 1.0 / 3, "val/accuracy": 0.5},
        {"step": 20, "train/loss": 0.25},
    ]
    assert read_rows(tmp_path / "metrics.csv") == files.history
    assert files.latest == {"train/loss": 0.25, "val/accuracy": 0.5}


def test_a_shorter_value_for_the_same_step_leaves_no_rest(tmp_path):
    files = MetricsFiles(tmp_path)
    for step, value in ((1, 0.5), (2, 0.123456789), (2, 0.5), (3, 0.25)):
        files.log_metrics({"a": value}, step=step)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,0.5\n2,0.5\n3,0.25\n"


def test_an_earlier_step_is_put_in_its_place(tmp_path):
    files = MetricsFiles(tmp_path)
    for step in (10, 30, 20, 40):
        files.log_metrics({"a": float(step)}, step=step)
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["10", "20", "30", "40"]
    files.log_metrics({"b": 1.0})  # no step: the last row's
    assert files.history[-1] == {"step": 40, "a": 40.0, "b": 1.0}


def test_resume_continues_the_file_and_drops_only_later_steps(tmp_path):
    first = MetricsFiles(tmp_path)
    for step in (10, 20, 30, 40):
        first.log_metrics({"train/loss": float(step)}, step=step)
    resumed = MetricsFiles(tmp_path, resume_step=20)
    assert [row["step"] for row in resumed.history] == [10, 20]
    assert len(table(tmp_path / "metrics.csv")) == 4, (
        "nothing is lost before the resumed run has logged"
    )
    resumed.log_metrics({"train/loss": 3.0, "val/accuracy": 0.5}, step=30)
    assert table(tmp_path / "metrics.csv") == [
        {"step": "10", "train/loss": "10.0", "val/accuracy": ""},
        {"step": "20", "train/loss": "20.0", "val/accuracy": ""},
        {"step": "30", "train/loss": "3.0", "val/accuracy": "0.5"},
    ]


def test_a_stopped_and_resumed_file_equals_an_uninterrupted_one(tmp_path):
    def log(files, steps):
        for step in steps:
            files.log_metrics({"a": 1 / step}, step=step)
            if step % 3 == 0:
                files.log_metrics({"b": 2 / step}, step=step)

    whole = MetricsFiles(tmp_path / "whole")
    log(whole, range(1, 11))
    log(MetricsFiles(tmp_path / "parts"), range(1, 9))
    log(MetricsFiles(tmp_path / "parts", resume_step=6), range(7, 11))
    assert (tmp_path / "parts/metrics.csv").read_bytes() == (
        tmp_path / "whole/metrics.csv"
    ).read_bytes()


def test_another_runs_file_is_refused_and_kept(tmp_path):
    MetricsFiles(tmp_path).log_metrics({"a": 1.0}, step=1)
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(UserError, match="metrics of another run"):
        MetricsFiles(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_line_cut_off_by_a_crash_is_left_out_but_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,a,b\n1,0.5,0.25\n2,0.")
    assert read_rows(path) == [{"step": 1, "a": 0.5, "b": 0.25}]
    path.write_text("step,a\n1,x\n2,0.5\n")
    with pytest.raises(UserError, match="line 2"):
        read_rows(path)
    path.write_text("name,a\n1,2\n")
    with pytest.raises(UserError, match="first column is 'name'"):
        read_rows(path)


def test_json_is_valid_where_values_are_not_finite(tmp_path):
    files = MetricsFiles(tmp_path)
    files.log_metrics({"a": math.nan, "b": math.inf}, step=1)
    rows = read_rows(tmp_path / "metrics.csv")
    assert math.isnan(rows[0]["a"]) and rows[0]["b"] == math.inf
    files.finish({"test/accuracy": 0.5, "test/loss": math.nan, "train_seconds": 3.0})

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    final = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert final == {"test/accuracy": 0.5, "test/loss": None, "train_seconds": 3.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"], (
        "no temporary file stays"
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        MetricsFiles(tmp_path / "file").log_metrics({"a": 1.0}, step=1)
