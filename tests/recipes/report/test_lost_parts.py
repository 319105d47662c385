"""Whatever part of a report fails, the run keeps all the others: each part is broken in turn."""

import dataclasses
import functools

import numpy as np
import pytest

from foundation import attempts
from foundation.attempts import Attempts, failure_line
from foundation.files import write_text
from recipes.loggers import build
from recipes.loggers.build import build_loggers, finish_loggers
from recipes.loggers.files import MetricsFiles
from recipes.report import figures, page, page_layout
from recipes.report.figures import figures_png
from recipes.report.page import page_and_lost, page_html
from recipes.report.record import Gallery, RunRecord, Sample, ViewRow
from tests.recipes.report.test_page import Reader
from tests.support.example_record import digits_record

PARTS = [name for name in vars(page) if name.startswith("_") and name.endswith("_cards")]
FIGURES = ("learning_curves", "pseudo_labels", "confusion_figure", "class_accuracy", "diagnostics")


@pytest.fixture(autouse=True)
def as_in_a_run(monkeypatch):
    """The suite raises these errors, a run does not."""
    monkeypatch.setattr(attempts, "STRICT", False)


def fail(*args, **kwargs):
    raise OverflowError("too <many> bars")


def full_record() -> RunRecord:
    gallery = Gallery("Retrieval", "note", [[Sample(np.zeros((8, 8, 1), np.uint8), "a", True)]])
    extra = {
        "galleries": [gallery],
        "changes": ["a: 1"],
        "warnings": ["b"],
        "class_results": {"shop": [[1] * 200, [1, 0] * 100, [1] * 200]},
    }
    return dataclasses.replace(example(), **extra)


example = functools.cache(digits_record)


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time."""
    for module in (page, page_layout):
        monkeypatch.setattr(module, "to_svg", lambda figure, key: f"<svg id='{key}'></svg>")


def headings(text: str) -> list[str]:
    return Reader(text).headings


@pytest.mark.parametrize("part", [*PARTS, "_header"])
def test_a_broken_part_is_one_line_in_its_place(part, monkeypatch, undrawn):
    whole = page_html(full_record())
    monkeypatch.setattr(page, part, fail)
    text, lost = page_and_lost(full_record())
    assert len(lost) == 1 and lost[0].endswith(": left out (OverflowError: too <many> bars)")
    missing = set(headings(whole)) - set(headings(text))
    assert len(missing) <= 2  # a task has two cards
    if part != "_header":
        assert "too &lt;many&gt; bars" in text


@pytest.mark.parametrize("figure", FIGURES)
def test_a_broken_figure_leaves_the_others_for_loggers(figure, monkeypatch):
    monkeypatch.setattr(figures, "to_png", lambda figure: b"png")
    whole = figures_png(full_record(), Attempts())
    monkeypatch.setattr(figures, figure, fail)
    some = Attempts()
    pictures = figures_png(full_record(), some)
    assert len(some.lost) == 1 and len(pictures) == len(whole) - 1


WRONG = {
    "confusion": {"label": [["x"]]},
    "train_counts": {"label": [None] * 10},
    "classes": {"label": [1, None]},
    "history": [{"step": 1, "train/loss": "much"}],
    "final": {"test/accuracy": "high"},
    "seconds": {"train": "long"},
    "views": [ViewRow("image", np.zeros((0, 0, 3), np.uint8), np.zeros((1, 2, 5), np.uint8))],
    "galleries": [Gallery("A", "", [[Sample(np.zeros((3,), np.uint8))]])],
    "versions": {"torch": None},
    "measured": {"attack": None},
}


@pytest.mark.parametrize("field", WRONG)
def test_no_value_of_a_record_costs_the_page(field, undrawn):
    text, lost = page_and_lost(dataclasses.replace(full_record(), **{field: WRONG[field]}))
    shown = [title.split(":")[0] for title in headings(text)]
    assert len(lost) <= 4 and {"FixMatch on digits", "Run", "Views"} <= set(shown)


def test_nan_everywhere_is_a_dash_not_a_failure():
    nan = float("nan")
    record = full_record()
    history = [dict.fromkeys(row, nan) | {"step": row["step"]} for row in record.history]
    final = dict.fromkeys(record.final, nan)
    views = [dataclasses.replace(row, confidence=nan) for row in record.views]
    _, lost = page_and_lost(dataclasses.replace(record, history=history, final=final, views=views))
    assert lost == []


def test_names_of_any_bytes(tmp_path):
    odd = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")
    view = ViewRow("text", odd, odd, odd, 0.5, odd, True)
    names = {"label": [odd, *map(str, range(1, 10))]}
    gallery = Gallery("Retrieval", odd, [[Sample(odd, odd)]])
    parts = {"title": odd, "command": odd, "plan": odd, "config": odd, "classes": names}
    parts |= {"views": [view], "versions": {odd: odd}, "galleries": [gallery], "hardware": odd}
    record = dataclasses.replace(full_record(), **parts)
    text, lost = page_and_lost(record)
    assert lost == [] and "caf\\udce9 \\udcff" in text
    write_text(tmp_path / "report.html", text)
    some = Attempts()
    assert "confusion/label" in figures_png(record, some)
    assert some.lost == []
    write_text(tmp_path / "plan.txt", odd)
    assert (tmp_path / "plan.txt").read_text(encoding="utf-8") == "caf\\udce9 \\udcff"


def test_a_broken_logger_costs_neither_the_metrics_nor_the_other_loggers(tmp_path, monkeypatch):
    nodes = {
        "first": {"_target_": "recipes.loggers.tensorboard.TensorBoard"},
        "second": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": str(tmp_path)},
    }
    loggers = build_loggers(nodes, tmp_path / "run")
    ended = []
    monkeypatch.setattr(type(loggers[1]), "finish", fail)
    monkeypatch.setattr(type(loggers[1]), "close", lambda self: ended.append("first"))
    monkeypatch.setattr(type(loggers[2]), "close", lambda self: fail(), raising=False)
    lost = finish_loggers(loggers, RunRecord("t", final={"test/accuracy": 0.5}), {})
    assert [line.split(":")[0] for line in lost] == ["TensorBoardRun", "end of CSVLogger"]
    assert ended == ["first"] and (tmp_path / "run" / "metrics.json").is_file()


def test_metrics_that_cannot_be_written_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(MetricsFiles, "finish", fail)
    with pytest.raises(OverflowError):
        build.finish_loggers(build_loggers({}, tmp_path), RunRecord("t"), {})


def test_the_line_names_part_and_reason():
    assert failure_line("views", ValueError("a\nb")) == "views: left out (ValueError: a)"
    assert failure_line("views", ValueError()) == "views: left out (ValueError)"
