"""Figures show the numbers they are given, need no pyplot, and are left out where there is nothing
to show."""

import sys

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from foundation.attempts import Attempts
from recipes.report.curves import (
    accuracy_names,
    draw_legend,
    loss_names,
    monitored,
    other_names,
    smooth,
    thin,
)
from recipes.report.figures import (
    all_figures,
    class_accuracy,
    confusion_figure,
    figures_png,
    learning_curves,
    view_sheet,
)
from recipes.report.matrices import confused_pairs, confusion_shares
from recipes.report.record import RunRecord, ViewRow
from recipes.report.style import new_figure, styled, to_png, to_svg
from tests.support.example_record import digits_record


def test_thinning_keeps_the_mean_and_the_end():
    steps, values = np.arange(1000.0), np.random.default_rng(0).normal(size=1000)
    few, means = thin(steps, values, 100)
    assert len(few) == 100 and few[-1] == 999 and np.isclose(means.mean(), values.mean())
    assert np.allclose(means, values.reshape(100, 10).mean(1))
    assert np.array_equal(thin(steps[:50], values[:50], 100)[1], values[:50])


def test_smoothing_has_no_start_up_bias():
    assert np.allclose(smooth(np.full(80, 0.7)), 0.7)
    values = np.array([4.0, 1.0, 2.0])
    decay = 1 - 1 / 2
    assert np.isclose(
        smooth(values, 2 / 3)[2], (decay**2 * 4 + decay * 1 + 2) / (decay**2 + decay + 1)
    )


def test_a_smoothed_step_stays_where_it_is():
    """A mean over the past alone crosses the middle of a step late."""
    smoothed = smooth(np.repeat([0.0, 1.0], 50))
    assert smoothed[49] < 0.5 < smoothed[50]
    assert np.allclose(smoothed + smoothed[::-1], 1)


def test_the_monitored_metric_has_a_panel_before_the_accuracies():
    record = digits_record()
    assert monitored(record) == [], "an accuracy has its panel"
    for row in record.history:
        if "val/accuracy" in row:
            row["val/recall@1"] = 0.5
    record.monitor = "val/recall@1"
    assert monitored(record) == [("val/recall@1", "recall@1")]
    titles = [axes.get_title("left") for axes in learning_curves(record).axes]
    assert titles == ["Training loss", "Validation recall@1", "Validation accuracy"]
    assert "val/recall@1" not in other_names(record)


def test_the_curves_are_the_history():
    record = digits_record()
    losses, accuracies = learning_curves(record).axes
    assert losses.get_shared_x_axes().joined(losses, accuracies), "one axis of steps"
    for axes, name in (
        (accuracies, "val/accuracy"),
        (accuracies, "val/raw/accuracy"),
        (losses, "train/unlabeled"),
    ):
        steps, values = record.series(name)
        drawn = [line for line in axes.lines if np.array_equal(line.get_xdata(), steps)]
        assert any(np.allclose(line.get_ydata(), values) for line in drawn), name


def test_what_is_reported_is_called_an_average_only_where_it_is_one():
    record = digits_record()
    assert accuracy_names(record)[:2] == [("val/accuracy", "reported"), ("val/raw/accuracy", "raw")]
    record.reported = "averaged"
    assert accuracy_names(record)[0] == ("val/accuracy", "averaged")


def test_diagnostics_are_no_losses():
    record = digits_record()
    assert loss_names(record) == ["train/loss", "train/labeled", "train/unlabeled"]
    record.terms = ["unlabeled"]
    assert loss_names(record) == ["train/loss"], "a single term would lie on the total"


def test_confusion_is_shares_of_rows_and_lists_the_worst_first():
    counts = [[8, 2, 0], [5, 5, 0], [0, 0, 0]]
    assert np.allclose(confusion_shares(counts), [[0.8, 0.2, 0], [0.5, 0.5, 0], [0, 0, 0]])
    assert confused_pairs(counts) == [(1, 0, 5, 0.5), (0, 1, 2, 0.2)]
    image = confusion_figure(counts, ["a", "b", "c"]).axes[0].images[0].get_array()
    assert image[0, 0, 3] > image[1, 1, 3] > image[1, 0, 3] * 0.5
    assert tuple(image[0, 1, :3]) != tuple(image[0, 0, :3]), "mistakes have a colour of their own"


@pytest.mark.parametrize("size", [1, 2, 10, 30, 150])
def test_figures_scale_with_the_number_of_classes(size):
    rng = np.random.default_rng(size)
    counts = np.maximum(500 / (1 + np.arange(size)), 0).astype(int)
    confusion = np.diag(rng.integers(5, 20, size)) + rng.integers(0, 2, (size, size))
    names = [f"$class_{i} <b>" for i in range(size)]
    for figure in (confusion_figure(confusion, names), class_accuracy(confusion, names, counts)):
        assert len(to_svg(figure, "x")) < 400_000


def test_bars_stand_in_order_of_training_counts():
    figure = class_accuracy([[1, 3], [0, 4]], ["rare", "common"], [2, 50])
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [1.0, 0.25]
    assert [bar.get_width() for bar in right.patches] == [50, 2]
    assert [label.get_text() for label in left.get_yticklabels()] == ["common", "rare"]


def test_nothing_to_show_makes_no_figure():
    assert all_figures(RunRecord("empty")) == {}
    assert view_sheet([ViewRow("text", "a", "b")]) is None


def test_pictures_need_no_pyplot():
    pictures = figures_png(digits_record(), Attempts())
    wanted = [
        "learning_curves",
        "pseudo_labels",
        "confusion/label",
        "class_accuracy/label",
        "views",
        "diagnostics",
    ]
    assert list(pictures) == wanted
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def of_dividemix() -> list[str]:
    parts = ("rest", "balance")
    names = [f"dividemix/{part}_{who}" for part in parts for who in ("student", "second")]
    return ["total", "supervised", "dividemix/second", *names]


@pytest.mark.parametrize(
    "labels", [of_dividemix(), ["a" * 40] * 4, ["total", "supervised"], ["accuracy 96.9 %"] * 3]
)
@styled
def test_a_legend_stays_in_its_figure_and_below_the_title(labels):
    figure = new_figure(height=4)
    axes = figure.subplots()
    axes.set_title("Training loss")
    lines = [axes.plot([0, 1], [0, 1])[0] for _ in labels]
    draw_legend(axes, lines, labels)
    figure.draw_without_rendering()
    box, title = axes.get_legend().get_window_extent(), axes.title.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.y1 <= title.y0 + 2


@pytest.mark.parametrize("export", [to_png, lambda figure: to_svg(figure, "a")], ids=["png", "svg"])
@pytest.mark.parametrize("key", ["constrained_layout.use", "autolayout"])
def test_a_figure_is_drawn_once(export, key, monkeypatch):
    """Whatever layout the user's matplotlib has."""
    draws = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *args: draws.append(draw(*args)))
    with rc_context({f"figure.{key}": True}):
        figure = new_figure()
        figure.subplots().plot([0, 1])
        export(figure)
    assert len(draws) == 1
