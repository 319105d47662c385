"""The page: one valid file, everything escaped, nothing fetched, sections only where there is
data."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from foundation.errors import UserError
from recipes.report.page import page_html, write_report
from recipes.report.record import RunRecord, ViewRow
from tests.support.example_record import digits_record

EVIL = '<script>alert("1")</script>&$x$ _a'
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest, and gathers headings, tags, ids, links and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.headings, self.text = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def page():
    return page_html(digits_record())


def test_sections_and_final_values(page):
    reader = Reader(page)
    assert reader.headings == [
        "FixMatch on digits",
        "Learning curves",
        "Unlabeled data",
        "Confusion",
        "Classes",
        "Views",
        "Other metrics",
        "Run",
    ]
    text = " ".join(reader.text)
    final = digits_record().final
    assert (
        f"{100 * final['test/accuracy']:.2f} %" in text
        and f"{100 * final['test/raw/accuracy']:.2f} %" in text
    )
    assert "1 min 15 s" in text and "python train.py recipe=fixmatch 'data.name=<digits>'" in text
    assert "order  fixmatch > ema" in text and "2 CPU cores" in text
    assert reader.tags.count("img") == 24


def test_the_page_says_how_curves_are_smoothed(page):
    assert "Strong: their mean over neighboring steps, before and after." in page


def test_the_monitored_metric_is_the_first_tile():
    final = {"test/accuracy": 0.9, "test/recall@1": 0.7, "val/recall@1": 0.8}
    for monitor, first, second in (
        ("val/recall@1", "test · recall@1", "test · accuracy"),
        ("val/accuracy", "test · accuracy", "test · recall@1"),
    ):
        page = page_html(RunRecord("t", final=final, monitor=monitor))
        assert page.index(first) < page.index(second)


def test_one_file_that_fetches_nothing(page):
    reader = Reader(page)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(page.encode()) < 500_000
    assert len(reader.ids) == len(set(reader.ids)), "ids of several figures must not meet"
    targets = {link[1:] for link in reader.links if link.startswith("#")} | set(
        re.findall(r"url\(#([^)]+)\)", page)
    )
    assert targets and targets <= set(reader.ids)


def test_figures_follow_the_theme(page):
    figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--ink)" in figures and "var(--c1)" in figures
    assert "#1b2431" not in figures and "prefers-color-scheme: dark" in page


def test_a_run_without_data_has_a_heading_and_nothing_empty():
    reader = Reader(page_html(RunRecord("bare")))
    assert reader.headings == ["bare"] and "svg" not in reader.tags and "section" not in reader.tags


@pytest.mark.parametrize("kind", ["image", "text"])
def test_everything_is_escaped(kind):
    record = digits_record()
    view = np.zeros((4, 4, 3), np.uint8) if kind == "image" else f"{EVIL} and words"
    other = view if kind == "image" else f"other {EVIL}"
    rows = [
        {(name if name == "step" else f"{name}{EVIL}"): value for name, value in row.items()}
        for row in record.history
    ]
    record = dataclasses.replace(
        record,
        **dict.fromkeys(("title", "command", "plan", "config", "hardware"), EVIL),
        history=rows,
        classes={EVIL: [EVIL, "_b"]},
        train_counts={EVIL: [3, 4]},
        confusion={EVIL: [[3, 1], [2, 4]]},
        views=[ViewRow(kind, view, other, EVIL, 0.5, EVIL, True), ViewRow(kind, view, view)],
        final={f"test/{EVIL}": 0.5},
        seconds={EVIL: 1.0},
        versions={EVIL: EVIL},
    )
    reader = Reader(page_html(record))
    assert "script" not in reader.tags
    assert EVIL in reader.headings[0]


def test_long_names_are_cut_and_what_does_not_print_is_an_escape():
    names = ["x" * 200, "\x1b[31mred", "a\u202eb", "new\nline"]
    view = np.zeros((4, 4, 3), np.uint8)
    record = dataclasses.replace(
        digits_record(),
        classes={"label": names},
        train_counts={"label": [1, 2, 3, 4]},
        confusion={"label": [[1, 4, 3, 2], [2, 1, 0, 0], [1, 0, 1, 3], [0, 2, 0, 1]]},
        views=[ViewRow("image", view, view, names[0], 0.5, names[1], True)],
    )
    html = page_html(record)
    assert "x" * 41 not in html and "x" * 39 + "…" in html
    assert "\x1b" not in html and "\u202e" not in html and "\\x1b[31mred" in html


def test_changed_words_are_marked():
    record = RunRecord(
        "t",
        views=[ViewRow("text", "the quick fox", "the slow fox", "animals", 0.99, "animals", False)],
    )
    page = page_html(record)
    assert "the <del>quick</del> <mark>slow</mark> fox" in page and "not in the loss" in page


def test_many_large_pictures_stay_within_bounds():
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8)
    record = RunRecord("t", views=[ViewRow("image", noise, noise)] * 64)
    assert len(page_html(record).encode()) < 1_500_000


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    assert write_report(RunRecord("first"), path) == []
    assert "first" in path.read_text(encoding="utf-8") and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="cannot be written"):
        write_report(RunRecord("t"), path / "below" / "report.html")
