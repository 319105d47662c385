"""Views of a report: those that training asked for, bands as colours, or as grey where there are
two."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipes.report.page import page_html
from recipes.report.record import RunRecord, ViewRow, png
from recipes.runs.collect import readable, view_names


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
def test_a_report_shows_at_most_three_channels(channels, shown):
    view = torch.rand(2, channels, 6, 5)
    pictures = readable(view, None)
    assert [picture.shape for picture in pictures] == [(6, 5, shown)] * 2
    expected = (view[0, :shown] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pictures[0], expected)
    assert png(pictures[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("streams", "views", "names"),
    [
        ("labeled", {"labeled": ("weak",)}, ("weak", "raw")),
        ("labeled", {"labeled": ("raw",)}, ("raw", "raw")),
        ("labeled", {"labeled": ("weak", "strong")}, ("weak", "strong")),
        (
            "labeled unlabeled",
            {"labeled": ("weak", "strong"), "unlabeled": ("weak", "weak2")},
            ("weak", "weak2"),
        ),
        ("labeled unlabeled", {"unlabeled": ("strong", "weak")}, ("weak", "strong")),
    ],
)
def test_the_views_of_the_report_are_those_of_training(streams, views, names):
    step = SimpleNamespace(streams=dict.fromkeys(streams.split()))
    assembly = SimpleNamespace(composition=SimpleNamespace(views=views))
    assert view_names(step, assembly) == names


def test_a_page_names_no_strong_view_where_there_is_none():
    picture = np.zeros((4, 4, 1), np.uint8)
    record = RunRecord("t", views=[ViewRow("image", picture, picture)], view_names=("weak", "raw"))
    page = page_html(record)
    assert "weak view beside stored sample" in page and "strong" not in page.lower()
