"""Buffers whose shape comes from the checkpoint; what else must agree is one line."""

import pytest
import torch
from torch import nn

from recipes.runs.resume import _misfit
from recipes.services.adopted import AdoptsShape, adopted_names


class Queue(AdoptsShape):
    adopted_shapes = ("rows",)

    def __init__(self, rows):
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("count", torch.zeros(2))


def test_a_fresh_module_takes_the_shape_of_the_checkpoint():
    module = nn.ModuleDict({"queue": Queue(torch.zeros(1, 1))})
    saved = {"queue.rows": torch.ones(3, 5, dtype=torch.float64), "queue.count": torch.ones(2)}
    assert list(adopted_names(module)) == ["queue.rows"] and _misfit(saved, module) == ""
    module.load_state_dict(saved)
    assert torch.equal(module["queue"].rows, saved["queue.rows"])


@pytest.mark.parametrize(
    ("saved", "line"),
    [
        (
            torch.ones(3),
            "'queue.rows' is 1-dimensional float32 there and 2-dimensional float32 here",
        ),
        (
            torch.ones(3, 5).long(),
            "'queue.rows' is 2-dimensional int64 there and 2-dimensional float32 here",
        ),
    ],
)
def test_another_number_of_dimensions_or_kind_is_a_line(saved, line):
    module = nn.ModuleDict({"queue": Queue(torch.zeros(1, 1))})
    assert _misfit({"queue.rows": saved, "queue.count": torch.ones(2)}, module) == line
    fixed = {"queue.rows": torch.ones(3, 5), "queue.count": torch.ones(3)}
    assert _misfit(fixed, module) == "'queue.count' is [3] there and [2] here"
