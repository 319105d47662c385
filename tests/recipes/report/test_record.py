"""The record: series, recalls, and the way to JSON and back."""

import json
import math

import numpy as np
import torch

from recipes.report.record import RunRecord, ViewRow, matrix, recalls
from tests.support.example_record import digits_record


def test_series_holds_finite_values_in_order_of_steps():
    rows = [
        {"step": 3, "a": 3.0},
        {"step": 1, "a": 1.0, "b": 2.0},
        {"step": 2, "a": math.nan},
        {"step": 4, "a": None},
    ]
    steps, values = RunRecord("t", history=rows).series("a")
    assert steps.tolist() == [1, 3] and values.tolist() == [1.0, 3.0]
    assert len(RunRecord("t").series("a")[0]) == 0
    assert RunRecord("t", history=rows).names() == ["a", "b"]


def test_recalls_are_shares_of_the_true_class():
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [1, 1, 2]])
    assert np.allclose(recalls(confusion), [0.75, np.nan, 0.5], equal_nan=True)
    assert matrix(confusion.tolist()).dtype == float


def test_json_and_back():
    record = digits_record()
    record.views.append(ViewRow("text", "a b", "a c", None, None, None, None))
    record.views.append(
        ViewRow(
            "image", np.arange(24, dtype=np.uint8).reshape(2, 4, 3), np.zeros((2, 4, 3), np.uint8)
        )
    )
    record.final["test/loss"] = math.nan
    again = RunRecord.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again.history == record.history and again.train_counts == record.train_counts
    assert again.final["test/loss"] is None
    assert np.array_equal(matrix(again.confusion["label"]), matrix(record.confusion["label"]))
    for old, new in zip(record.views, again.views, strict=True):
        assert np.array_equal(old.weak, new.weak) and np.array_equal(old.strong, new.strong)
        assert (old.pseudo_label, old.kept) == (new.pseudo_label, new.kept)
