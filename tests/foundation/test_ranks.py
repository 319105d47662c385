"""Two gloo ranks with half of the rows each against one process with all of them. One start serves
all checks."""

from typing import Any

import pytest
import torch

from foundation.distributed import (
    from_first_rank,
    gather_rows,
    gather_uneven,
    global_sum,
    is_first_rank,
    names_of_any_rank,
    world_size,
)
from foundation.randomness import Randomness
from recipes.engine.meters import Meters
from recipes.engine.remarked import Remarked
from recipes.services.statistics import SampleMemory
from recipes.step.terms import Term
from tests.support.processes import on_two_ranks

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
INDEX = torch.tensor([0, 3, 3, 5, 3, 1, 0, 6])


def observe(rank: int, world: int) -> dict[str, Any]:
    """What a rank sees; it holds its contiguous share of the eight rows."""
    rows = slice(rank * 8 // world, (rank + 1) * 8 // world)
    seen: dict[str, Any] = {"world": world_size()}
    for denominator in ("samples", "confident"):
        scale = torch.ones((), requires_grad=True)
        term = Term("t", scale * VALUES[rows], mask=MASK[rows], denominator=denominator)
        loss = term.reduced()
        loss.backward()
        seen[denominator] = float(loss.detach()), float(scale.grad)
    seen["nobody"] = float(
        Term("t", VALUES[rows], mask=torch.zeros(8 // world), denominator="confident").reduced()
    )
    seen["sum"] = float(global_sum(VALUES[rows].sum()))
    seen["gathered"] = gather_rows(INDEX[rows])
    seen["first"] = is_first_rank(), from_first_rank(INDEX[rows] + rank)
    memory = SampleMemory(8)
    memory.write(INDEX[rows], VALUES[rows])
    seen["table"], seen["writes"] = memory.table, memory.writes
    meters = Meters()
    meters.add(
        {"loss": VALUES[rows].mean()}, {"kept": (MASK[rows].sum(), torch.tensor(8.0 / world))}
    )
    meters.add({"loss": torch.tensor(0.0)}, {"accuracy": (MASK[rows].sum(), MASK[rows].sum())})
    seen["meters"] = meters.flush()
    # of five samples the last rank has none
    remarked = Remarked()
    if not rank:
        remarked.add(INDEX[:3] % 7, {"m/v_flagged": VALUES[:3] % 2})
        remarked.add(torch.tensor([7]), {"m/v_flagged": torch.ones(1)})
    seen["remarked"] = remarked.compute("test"), remarked.index, remarked.values["m/v_flagged"]
    seen["names"] = names_of_any_rank(["a", "b"] if rank == world - 1 else [])
    seen["uneven"] = gather_uneven(torch.arange(1 + 2 * rank))
    seen["normal"] = Randomness(1, 2, rank, world).draw("x", 8 // world).normal(3)
    return seen


def test_the_ranks_met():
    assert [seen["world"] for seen in on_two_ranks(observe)] == [2, 2]
    assert observe(0, 1)["world"] == 1


@pytest.mark.parametrize(("denominator", "expected"), [("samples", 13 / 8), ("confident", 13 / 3)])
def test_the_mean_over_ranks_of_loss_and_gradient_is_that_of_the_whole_batch(denominator, expected):
    """Also where one rank keeps everything and the other nothing: the denominator counts the global
    batch."""
    assert observe(0, 1)[denominator] == pytest.approx((expected, expected))
    losses, gradients = zip(*(seen[denominator] for seen in on_two_ranks(observe)), strict=True)
    assert sum(losses) / 2 == pytest.approx(expected)
    assert sum(gradients) / 2 == pytest.approx(expected)


def test_all_ranks_have_what_the_first_one_has():
    flags, values = zip(*(seen["first"] for seen in on_two_ranks(observe)), strict=True)
    assert flags == (True, False) and observe(0, 1)["first"][0]
    assert [rows.tolist() for rows in values] == [INDEX[:4].tolist()] * 2
    assert observe(0, 1)["first"][1].tolist() == INDEX.tolist()


def test_nobody_kept_on_any_rank_is_zero():
    assert [seen["nobody"] for seen in on_two_ranks(observe)] == [0, 0]


def test_sums_and_gathered_rows_are_global():
    for seen in on_two_ranks(observe):
        assert seen["sum"] == 255
        assert torch.equal(seen["gathered"], INDEX)


def test_memories_are_equal_to_that_of_one_process():
    whole = observe(0, 1)
    assert whole["table"].tolist() == [64, 32, 0, 16, 0, 8, 128, 0]
    for seen in on_two_ranks(observe):
        assert torch.equal(seen["table"], whole["table"])
        assert torch.equal(seen["writes"], whole["writes"])


def test_meters_are_means_over_all_ranks():
    whole = observe(0, 1)["meters"]
    assert whole == pytest.approx({"loss": 255 / 16, "kept": 3 / 8, "accuracy": 1.0})
    for seen in on_two_ranks(observe):
        assert seen["meters"] == pytest.approx(whole)


def test_draws_are_slices_of_the_global_draw():
    whole = observe(0, 1)["normal"]
    assert torch.equal(torch.cat([seen["normal"] for seen in on_two_ranks(observe)]), whole)


def test_a_rank_without_samples_has_the_values_of_the_others():
    for seen in [observe(0, 1), *on_two_ranks(observe)]:
        shares, index, values = seen["remarked"]
        assert shares == {"test/m/v_flagged": pytest.approx(0.5)}
        assert index.tolist() == [0, 3, 3, 7] and values.tolist() == [1, 0, 0, 1]
        assert seen["names"] == ["a", "b"]
        assert seen["uneven"].tolist() == ([0] if seen["world"] == 1 else [0, 0, 1, 2])
