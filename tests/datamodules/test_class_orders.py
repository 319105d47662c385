"""Orders that choose the class first: exact counts, right frequencies, pure functions of the
position."""

import pytest
import torch
from scipy.stats import chisquare

from datamodules.class_orders import (
    ClassCycle,
    ClassDraws,
    ClassPasses,
    class_members,
    power_shares,
    progressive_shares,
    sizes_of,
    whole_counts,
)
from datamodules.samplers import StepSampler

COUNTS = torch.tensor([100, 10, 1])
SHUFFLE = torch.randperm(111, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(3).repeat_interleave(COUNTS)[SHUFFLE]
FIXED = torch.tensor([20, 17, 13])


def cycle(seed: int = 0, in_a_row: int = 1) -> ClassCycle:
    return ClassCycle(LABELS, seed, "labeled", in_a_row)


def passes(seed: int = 0, walk: str = "fresh") -> ClassPasses:
    return ClassPasses(LABELS, 50, lambda number, offset: FIXED, seed, "labeled", walk)


def draws(seed: int = 0) -> ClassDraws:
    return ClassDraws(LABELS, power_shares(COUNTS, 0.5), seed, "labeled")


MAKERS = {"cycle": cycle, "rows": lambda s=0: cycle(s, 4), "passes": passes, "draws": draws}


@pytest.mark.parametrize(
    ("q", "expected"),
    [(1, (0.9009, 0.0901, 0.0090)), (0.5, (0.7061, 0.2233, 0.0706)), (0, (1 / 3, 1 / 3, 1 / 3))],
)
def test_worked_shares(q, expected):
    torch.testing.assert_close(
        power_shares(COUNTS, q), torch.tensor(expected).double(), atol=5e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("share", "expected"), [(5 / 9, (0.5856, 0.2252, 0.1892)), (5 / 10, (0.6171, 0.2117, 0.1712))]
)
def test_worked_progressive_shares(share, expected):
    torch.testing.assert_close(
        progressive_shares(COUNTS, share), torch.tensor(expected).double(), atol=6e-5, rtol=0
    )


def test_whole_counts_are_floor_or_ceiling_and_right_on_average():
    shares = power_shares(torch.tensor([100, 10, 3, 1]), 0.5)
    found = torch.stack(
        [whole_counts(shares, 37, u) for u in torch.linspace(0, 1, 2001)[:-1].tolist()]
    )
    assert (found.sum(1) == 37).all() and (found - shares * 37).abs().max() < 1
    torch.testing.assert_close(found.double().mean(0), shares * 37, atol=2e-3, rtol=0)


def test_members_are_those_of_the_classes_that_occur():
    members = class_members(torch.tensor([4, -1, 0, 4, 0, 2]))
    assert [m.tolist() for m in members] == [[2, 4], [5], [0, 3]]
    assert sizes_of(torch.tensor([4, -1, 0, 4, 0, 2])).tolist() == [2, 1, 2]


@pytest.mark.parametrize("name", MAKERS)
def test_an_order_is_a_pure_function_of_position_and_seed(name):
    whole = MAKERS[name]().take(0, 5000)
    used = MAKERS[name]()
    for start, stop in ((4100, 4250), (7, 90), (4990, 5000), (0, 1), (49, 51)):
        assert used.take(start, stop).equal(whole[start:stop])
        assert MAKERS[name]().take(start, stop).equal(whole[start:stop])
    assert not MAKERS[name](1).take(0, 5000).equal(whole)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_out_one_sequence(name, world):
    def sampler(rank: int, ranks: int, start: int = 0) -> list:
        return list(
            StepSampler(
                {"labeled": MAKERS[name]()}, {"labeled": 8}, 30, rank, ranks, start=lambda: start
            )
        )

    whole, parts = sampler(0, 1), [sampler(rank, world) for rank in range(world)]
    for step in range(30):
        joined = [position for part in parts for position in part[step]["labeled"]]
        assert joined == whole[step]["labeled"].tolist()
    resumed = sampler(0, 1, start=17)
    assert all(
        (a["labeled"] == b["labeled"]).all() for a, b in zip(resumed, whole[17:], strict=True)
    )


@pytest.mark.parametrize("in_a_row", [1, 4])
def test_every_cycle_holds_each_class_in_a_row(in_a_row):
    order = cycle(in_a_row=in_a_row)
    cycles = LABELS[order.take(0, 300 * in_a_row)].view(100, 3, in_a_row)
    assert (cycles == cycles[:, :, :1]).all()
    assert cycles[:, :, 0].sort(1).values.equal(torch.arange(3).expand(100, 3))
    assert len({tuple(row.tolist()) for row in cycles[:, :, 0]}) == 6


def test_in_a_cycle_no_sample_repeats_before_its_class_is_exhausted():
    taken = cycle().take(0, 3 * 1000)
    for label, size in enumerate(COUNTS.tolist()):
        own = taken[LABELS[taken] == label]
        rounds = own[: len(own) // size * size].view(-1, size).sort(1).values
        assert rounds.equal(rounds[:1].expand_as(rounds)) and len(rounds) >= 10
        assert size == 1 or not own[:size].equal(own[size : 2 * size])


def test_passes_hold_exact_counts_and_every_sample_equally_often():
    order = passes()
    for number in range(20):
        taken = order.take(50 * number, 50 * (number + 1))
        assert torch.bincount(LABELS[taken]).equal(FIXED)
        often = torch.bincount(taken, minlength=111)
        for label, (count, size) in enumerate(zip(FIXED.tolist(), COUNTS.tolist(), strict=True)):
            assert set(often[class_members(LABELS)[label]].tolist()) <= {
                count // size,
                -(-count // size),
            }


def test_walks_go_on_begin_afresh_or_stay():
    head = {}
    for walk in ("on", "fresh", "same"):
        taken = passes(walk=walk).take(0, 50 * 10).view(10, 50)
        head[walk] = [frozenset(row[LABELS[row] == 0].tolist()) for row in taken]
    assert len(set(head["same"])) == 1 and len(set(head["fresh"])) == 10
    # five passes of 20 are the whole list of 100
    assert len(frozenset.union(*head["on"][:5])) == len(frozenset.union(*head["on"][5:])) == 100
    assert len(frozenset.union(*head["fresh"][:5])) < 100


@pytest.mark.parametrize("name", ["draws", "cycle"])
def test_frequencies(name):
    taken = MAKERS[name]().take(0, 30000)
    shares = power_shares(COUNTS, 0.5 if name == "draws" else 0.0)
    per_sample = (shares / COUNTS)[LABELS]
    assert chisquare(torch.bincount(LABELS[taken]), 30000 * shares).pvalue > 1e-3
    assert chisquare(torch.bincount(taken, minlength=111), 30000 * per_sample).pvalue > 1e-3
