"""Pictures of a report: bands are shown as colours, or as grey where there are two."""

import numpy as np
import pytest
import torch

from recipes.report.record import png
from recipes.runs.collect import readable


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
def test_a_report_shows_at_most_three_channels(channels, shown):
    view = torch.rand(2, channels, 6, 5)
    pictures = readable(view, None)
    assert [picture.shape for picture in pictures] == [(6, 5, shown)] * 2
    expected = (view[0, :shown] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pictures[0], expected)
    assert png(pictures[0]).startswith(b"\x89PNG")
