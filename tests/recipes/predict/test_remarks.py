"""What methods say about each sample, in the table and the Python interface of a finished run."""

import csv
import json

import pytest
import torch

import recipes
from datamodules.sources import Digits
from recipes.export.__main__ import main as export
from recipes.predict.__main__ import main
from tests.support.command import write_pictures
from tests.support.predict_runs import BATCH, digits, no_data

KEY = "feature_squeezing"
SCORE, FLAGGED = f"{KEY}/score", f"{KEY}/score_flagged"


@pytest.fixture(scope="module")
def squeezing_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squeezing") / "run"
    digits(folder, f"adversarial={KEY}", f"methods.{KEY}.bits=1", "data.val_fraction=0.3")
    return folder


def test_a_loaded_run_says_what_the_run_reported(squeezing_run):
    with no_data():
        model = recipes.load(squeezing_run)
    found = model.predict(Digits().load().test.pixels, "remarks", batch_size=BATCH)
    assert list(found) == [SCORE, FLAGGED]
    threshold = float(model.recipe.method_modules[KEY].value)
    assert 0 < threshold <= 2
    assert torch.equal(found[FLAGGED], (found[SCORE] > threshold).float())
    final = json.loads((squeezing_run / "metrics.json").read_text())
    assert final[f"test/{FLAGGED}"] == pytest.approx(float(found[FLAGGED].mean()), abs=1e-6)
    assert 0 < final[f"test/{FLAGGED}"] < 0.5
    alone = model.predict(Digits().load().test.pixels[3], "remarks")
    assert float(alone[SCORE]) == pytest.approx(float(found[SCORE][3]), abs=1e-5)


def test_a_part_of_the_threshold_is_exceeded_on_the_validation_part(squeezing_run):
    final = json.loads((squeezing_run / "metrics.json").read_text())
    assert 0 <= final[f"val/{FLAGGED}"] <= 0.05


def test_the_table_has_a_column_for_each_value(squeezing_run, place, capsys):
    write_pictures(place / "in", 5)
    (place / "in" / "1.png").write_text("broken")
    main([f"run={squeezing_run}", "input=in", "output=out.csv", "batch_size=2"])
    with (place / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["input", "label", "confidence", SCORE, FLAGGED]
    assert rows.pop(1)[SCORE] == ""
    model = recipes.load(squeezing_run)
    for row in rows:
        found = model.predict(place / "in" / row["input"], "remarks")
        assert float(row[SCORE]) == pytest.approx(float(found[SCORE]), rel=1e-4, abs=1e-6)
        assert row[FLAGGED] == f"{float(found[FLAGGED]):g}"


def test_an_alarm_that_is_not_known_is_an_empty_cell(squeezing_run, place):
    from recipes.predict.table import Predictions

    model = recipes.load(squeezing_run)
    model.recipe.method_modules[KEY].value.fill_(torch.nan)
    table = Predictions(model, probabilities=False, embeddings=False)
    (row,) = table.rows([Digits().load().test.pixels[0]], 0)
    assert row[-1] == "" and float(row[-2]) >= 0
    assert Predictions(model, probabilities=False, embeddings=True).remarks == []


def test_a_run_without_such_methods_has_none(pictures_run):
    model = recipes.load(pictures_run.folder)
    assert model.predict(Digits().load().test.pixels[:3], "remarks") == {}


def test_the_page_shows_them(squeezing_run):
    page = (squeezing_run / "report.html").read_text()
    assert "Values of samples" in page and f"The test samples with the largest {SCORE}." in page


def test_an_export_says_that_they_are_left_out(squeezing_run, place, capsys):
    export([f"run={squeezing_run}", "output=out", "format=safetensors"])
    assert f"{KEY}: what it says about each sample is not exported" in capsys.readouterr().err
