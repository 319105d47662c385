"""The table's numbers, and that whatever is not done stands in it with its reason."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from recipes.sweeps.page import best_tile, commands, figure_note, page_html
from recipes.sweeps.record import Job, write_job
from recipes.sweeps.summary import summarize
from recipes.sweeps.table import (
    Spread,
    brief,
    counts,
    csv_text,
    jobs_csv,
    make_table,
    rows_csv,
    spread,
)


def done(overrides, value, **more):
    metrics = {"val/accuracy": value, "test/accuracy": value - 0.1, "train_seconds": 3.0}
    return Job(
        overrides,
        " ".join(overrides),
        state="done",
        metrics=metrics,
        monitor="val/accuracy",
        seconds=5,
        **more,
    )


@pytest.fixture
def jobs():
    accuracy = {("0.1", 0): 0.7, ("0.1", 1): 0.8, ("0.1", 2): 0.9, ("0.3", 0): 0.95}
    found = {
        n: done([f"optimizer.lr={lr}", f"seed={s}"], v)
        for n, ((lr, s), v) in enumerate(accuracy.items())
    }
    found[4] = Job(["optimizer.lr=0.3", "seed=1"], state="failed", reason="<b>no</b> & never")
    found[5] = Job(["optimizer.lr=0.3", "seed=2"], state="running")
    return found


def test_mean_and_sample_standard_deviation():
    # (1/2)((−.1)² + 0 + .1²) = .01
    assert spread([0.7, 0.8, 0.9]) == Spread(pytest.approx(0.8), pytest.approx(0.1), 3)
    assert spread([0.5]) == Spread(0.5, None, 1)
    assert spread([0.7, 0.8, 0.9]).text("val/accuracy") == "80.00 ± 10.00 %"
    assert (
        spread([0.5]).text("val/loss") == "0.5"
        and spread([1.0, 2.0]).text("val/loss") == "1.5 ± 0.71"
    )


def test_rows_are_the_swept_values_without_the_seed_best_first(jobs):
    table = make_table(jobs)
    assert (
        table.swept == ["optimizer.lr"]
        and table.monitor == "val/accuracy"
        and table.direction == "maximize"
    )
    assert [row.setting for row in table.rows] == [{"optimizer.lr": "0.3"}, {"optimizer.lr": "0.1"}]
    assert [row.runs for row in table.rows] == ["1 of 3", "3"]
    assert table.rows[1].statistics["test/accuracy"].mean == pytest.approx(0.7)
    assert table.rows[0].not_done() == [
        "job 4, seed 1: failed: <b>no</b> & never",
        "job 5, seed 2: running: no end recorded; killed with its parent process, or still running "
        "elsewhere",
    ]
    assert counts(jobs) == "6 jobs: 4 done, 1 failed, 1 running, 20 s of computing"


def test_a_loss_is_best_where_it_is_least_and_nan_counts_for_none():
    losses = {0: 0.4, 1: 0.2, 2: None}
    jobs = {
        n: Job([f"a={n}"], state="done", metrics={"val/loss": value}, monitor="val/loss")
        for n, value in losses.items()
    }
    table = make_table(jobs)
    assert [row.setting["a"] for row in table.rows] == ["1", "0", "2"] and table.best is table.rows[
        0
    ]
    assert table.rows[2].statistics == {}


def test_jobs_that_differ_in_nothing_but_the_seed_are_one_row():
    table = make_table({n: done([f"seed={n}", "a=1"], 0.5 + n / 10) for n in range(3)})
    assert (
        table.swept == []
        and len(table.rows) == 1
        and table.rows[0].statistics["val/accuracy"].n == 3
    )


def test_a_sweep_of_which_nothing_ran_has_a_table():
    table = make_table(
        {0: Job(["seed=0", "a=1"]), 1: Job(["seed=0", "a=2"], state="failed", reason="x")}
    )
    assert table.best is None and len(table.rows) == 2 and table.metrics == []
    assert "<svg" not in page_html(table, Path("/nowhere"), [])


def test_csv_files_hold_what_the_table_shows(jobs):
    table = make_table(jobs)
    rows = list(csv.DictReader(io.StringIO(rows_csv(table))))
    assert (
        float(rows[1]["val/accuracy std"]) == pytest.approx(0.1)
        and rows[0]["val/accuracy std"] == ""
    )
    assert (rows[0]["runs"], rows[0]["asked"]) == ("1", "3") and "<b>no</b> & never" in rows[0][
        "not done"
    ]
    single = list(csv.DictReader(io.StringIO(jobs_csv(table))))
    assert [row["seed"] for row in single] == ["0", "1", "2", "0", "1", "2"] and single[4][
        "val/accuracy"
    ] == ""


def test_the_end_of_a_sweep_leaves_files_and_one_page_that_fetches_nothing(jobs, tmp_path):
    for number, job in jobs.items():
        write_job(tmp_path / str(number), job)
    (tmp_path / "0" / "report.html").touch()
    console = Console(file=io.StringIO(), width=150)
    assert summarize(tmp_path, ["-m", "seed=0,1,2"], console) is False
    shown = console.file.getvalue()
    assert (
        "80.00 ± 10.00 %" in shown
        and "<b>no</b> & never" in shown
        and "the same command runs" in shown
    )
    assert shown.splitlines()[-1] == str(tmp_path / "sweep.html")
    plain = json.loads((tmp_path / "sweep.json").read_text())
    assert plain["rows"][1]["figures"]["val/accuracy"]["std"] == pytest.approx(0.1)
    page = (tmp_path / "sweep.html").read_text()
    assert "&lt;b&gt;no&lt;/b&gt; &amp; never" in page and "python train.py -m seed=0,1,2" in page
    assert page.count("<svg") == 1 and '<a href="0/report.html">0</a>' in page
    links = set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page))
    assert links == {"0/report.html"} and "<script" not in page and "@import" not in page


def test_the_tile_of_the_best_row_has_its_mean_alone_and_the_deviation_below(jobs):
    table = make_table({n: jobs[n] for n in range(3)} | {3: done(["optimizer.lr=0.3"], 0.5)})
    tile = best_tile(table, table.best, "val/accuracy")
    assert '<div class="value">80.00 %</div>' in tile
    assert "± 10.00 % over 3 runs, optimizer.lr 0.1" in tile and "80.00 ±" not in tile


def test_the_note_of_figures_explains_what_they_have(jobs):
    single = {n: done([f"a={n}"], 0.5) for n in range(2)}
    assert figure_note(make_table(single)) == ("Small dots: runs. Large dots: means of a setting.")
    seeds = {n: jobs[n] for n in range(3)}
    whiskers = (
        "Small dots: runs. Large dots with whiskers: mean and sample standard deviation over seeds."
    )
    assert figure_note(make_table(seeds)) == whiskers
    assert figure_note(make_table(jobs)) == f"{whiskers} Crosses: runs without a result."


def test_only_a_sweep_that_lacks_jobs_has_a_command_for_missing_ones(jobs):
    whole = {n: jobs[n] for n in range(4)}
    html = commands(make_table(whole), ["-m", "seed=0,1"])
    assert ">The sweep</p>" in html and "missing" not in html.lower()
    html = commands(make_table(jobs), ["-m", "seed=0,1"])
    assert ">Run the missing jobs</p>" in html and ">The sweep</p>" not in html


def test_a_plot_for_every_swept_value_that_fits_on_an_axis():
    jobs = {
        n: done([f"a={10**-a}", f"b={b}", f"c={n}word", "seed=0"], 0.5 + n / 100)
        for n, (a, b) in enumerate((a, b) for a in range(4) for b in ("x", "y", "z", "w"))
    }
    page = page_html(make_table(jobs), Path("/nowhere"), [])
    # 16 words of c would not fit
    assert page.count("<svg") == 2


@pytest.mark.parametrize(
    "text, short", [("0.0443037524521", "0.044304"), ("0.1", "0.1"), ("logit_adjustment", None)]
)
def test_what_a_search_drew_is_shown_with_five_digits(text, short):
    assert brief(text) == (short or text)


def test_a_search_shows_the_best_until_then():
    from recipes.sweeps.figures import search_history

    jobs = {
        n: done([f"a={n}"], v, metric="val/accuracy", direction="maximize")
        for n, v in enumerate([0.5, 0.9, 0.7])
    }
    best = search_history(make_table(jobs)).axes[0].lines[0].get_ydata()
    assert list(best) == [0.5, 0.9, 0.9]
    assert search_history(make_table({n: done([f"a={n}"], 0.5) for n in range(3)})) is None


def test_no_cell_of_a_table_is_a_formula():
    lines = csv_text([["=1+1", "-3", "-x", "@sum", None, 2.5, "a"]])
    assert lines == "'=1+1,-3,'-x,'@sum,,2.5,a\n"
