"""What all benchmarks stand on: turns, ratios, peak memory, and a page that says what the files
say."""

import json

import pytest
import torch

from benchmarks.clock import Times
from benchmarks.contest import contest, peak_bytes
from benchmarks.pages import performance
from benchmarks.record import Record, without_json


def test_contenders_take_turns_in_an_order_that_rotates():
    order = []
    found = contest(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        repeats=3,
        warmup=0,
        least=0,
    )
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"  # one call each to learn how long it takes
    assert all(len(times.wall) == len(times.cpu) == 3 for times in found.values())


def test_a_ratio_is_taken_within_a_round():
    ours, peer = Times(wall=[1.0, 2.0, 4.0]), Times(wall=[3.0, 6.0, 8.0])
    assert ours.ratio(peer).values == [3.0, 3.0, 2.0]


def test_peak_memory_is_what_lives_at_once():
    rows = torch.ones(1000)

    def call():
        a = rows + 1
        del a
        b = rows + 2
        return (b * 3).sum()

    assert 8000 <= peak_bytes(call) < 8500  # two of 4000 bytes at once, though three were made


def test_the_command_of_a_record_does_not_name_its_file():
    assert without_json(["--steps", "3", "--json", "x.json", "--device", "cpu"]) == [
        "--steps",
        "3",
        "--device",
        "cpu",
    ]
    assert without_json(["--json=x.json", "--steps", "3"]) == ["--steps", "3"]


@pytest.mark.parametrize(
    ("met", "word"), [(True, "met"), (False, "missed"), (None, "not judged here")]
)
def test_the_page_tells_every_target(met, word, tmp_path):
    record = Record("speed/some", "Something timed.\n\nMore of it.")
    record.table("A table", ["what", "ms"], [["ours", "1.0"]])
    record.target("twice as fast", "1.5 times", met, "because")
    record.write(tmp_path / "some.json")
    written = json.loads((tmp_path / "some.json").read_text())
    overview, tables = performance.page([written]), performance.tables_page(written)
    assert f"| twice as fast | 1.5 times | {word}" in overview
    assert "[some](performance/some.md)" in overview
    assert "| ours | 1.0 |" in tables and "Something timed." in tables
    assert "More of it" not in overview + tables


def test_the_pages_are_what_the_files_say():
    records = performance.read()
    assert performance.PAGE.read_text(encoding="utf-8") == performance.page(records)
    names = {record["benchmark"] for record in records}
    assert {path.stem for path in performance.FIGURES.glob("*.md")} == names
    for record in records:
        path = performance.FIGURES / f"{record['benchmark']}.md"
        assert path.read_text(encoding="utf-8") == performance.tables_page(record)
