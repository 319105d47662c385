"""The page in a browser: nothing is cut off, no row is half empty, every figure has a title."""

import dataclasses
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from recipes.report.page import page_html
from recipes.report.record import Gallery, RunRecord, Sample, ViewRow
from tests.support.example_record import digits_record

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
LOOK = """<script>
const found = {wide: [], rows: {}, untitled: 0};
const all = document.querySelectorAll("html, .card, .tile, .value, h1, h2, pre, .gallery, .sheet");
for (const one of all)
  if (one.scrollWidth > one.clientWidth + 1) found.wide.push(one.tagName + "." + one.className);
const grid = document.querySelector(".grid").getBoundingClientRect();
for (const card of document.querySelectorAll(".grid > .card")) {
  const box = card.getBoundingClientRect();
  found.rows[box.top] = Math.max(found.rows[box.top] || 0, box.right);
  if (card.querySelector("svg, img") && !(card.querySelector("h2") || {}).textContent)
    found.untitled += 1;
}
found.rows = Object.values(found.rows).map(right => Math.round(grid.right - right));
document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>";
</script>"""


def gallery(columns: int, rows: int) -> Gallery:
    sample = Sample(np.full((32, 32, 3), 90, np.uint8), "change, at most 0.100", True)
    return Gallery("Attacked samples", "What they show.", [[sample] * columns] * rows)


def many(record: RunRecord) -> RunRecord:
    """Several tasks, long names, other metrics, samples of two measurements."""
    long = "a_task_with_a_long_name/and_another_word"
    history = [row | {f"val/{long}": 0.5, "val/b": 0.1, "val/c": 0.2} for row in record.history]
    tasks = dict.fromkeys(("label", "parity", "colour"), record.confusion["label"])
    return dataclasses.replace(
        record,
        title="fixmatch, regularization=[mixup,sam], averaging=ema on image_folder",
        history=history,
        final=record.final | {f"test/{long}": 0.4, "test/balanced_accuracy": 0.9312},
        confusion=tasks,
        plan="strong: Strong(" + "magnitude_mode=constant, " * 20 + ")",
        galleries=[gallery(6, 3), gallery(3, 2)],
        measured={"attack": "PGD, l∞ radius 0.1, steps 20, " * 5},
        changes=["trainer.max_steps: 10, was 5"],
    )


RECORDS = {
    "semi-supervised": digits_record,
    "several tasks": lambda: many(digits_record()),
    "texts": lambda: dataclasses.replace(
        digits_record(),
        views=[ViewRow("text", "a word " * 40, "a verylongword" * 20, "x", 0.5)] * 4,
    ),
    "nothing but curves": lambda: RunRecord("t", history=digits_record().history),
}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("name", RECORDS)
def test_nothing_is_cut_off_and_no_row_half_empty(name, width, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(page_html(RECORDS[name]()).replace("</body>", LOOK + "</body>"), "utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    window = f"--window-size={width},3000"
    done = subprocess.run(
        [str(BROWSER), *flags, window, page.as_uri()], capture_output=True, text=True, timeout=120
    )
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr
    found = json.loads(text[1].replace("&amp;", "&"))
    assert found["wide"] == [] and found["untitled"] == 0
    assert max(found["rows"]) <= 1, "a row ends before the grid does"
