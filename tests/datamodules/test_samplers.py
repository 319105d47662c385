"""Orders are endless, freshly shuffled and pure; ranks share a batch; evaluation sees every sample
once."""

import numpy as np
import pytest
import torch

from datamodules.samplers import LiveOrder, ShareSampler, ShuffledPasses, StepSampler
from datamodules.streams import Part, PartDataset, StepLoader, moved


def test_every_pass_is_a_fresh_permutation():
    order = ShuffledPasses(40, seed=0, stream="labeled")
    passes = order.take(0, 400).view(10, 40)
    assert passes.sort(1).values.equal(torch.arange(40).expand(10, 40))
    assert len({tuple(p.tolist()) for p in passes}) == 10


@pytest.mark.parametrize(("size", "batch"), [(40, 64), (7, 3), (5, 17), (64, 64), (1, 4)])
def test_a_batch_is_a_pure_function_of_the_step(size, batch):
    whole = ShuffledPasses(size, seed=3, stream="labeled").take(0, 20 * batch)
    for step in (13, 2, 19, 0, 2):  # in no order, each on a fresh object and on a used one
        fresh = ShuffledPasses(size, seed=3, stream="labeled")
        assert fresh.take(step * batch, (step + 1) * batch).equal(
            whole[step * batch : (step + 1) * batch]
        )


def test_seed_and_stream_give_different_orders():
    orders = [
        ShuffledPasses(100, s, n).take(0, 100)
        for s, n in ((0, "labeled"), (1, "labeled"), (0, "unlabeled"))
    ]
    assert not orders[0].equal(orders[1]) and not orders[0].equal(orders[2])


def test_each_place_of_a_pass_holds_each_sample_equally_often():
    table = ShuffledPasses(5, seed=0, stream="labeled").take(0, 5 * 4000).view(4000, 5)
    counts = torch.stack([torch.bincount(column, minlength=5) for column in table.unbind(1)])
    # 800 expected, standard deviation 25
    assert ((counts - 800).abs() < 5 * 25.3).all()


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_hold_contiguous_rows_of_the_global_batch(world):
    def sampler(rank: int, ranks: int) -> StepSampler:
        orders = {name: ShuffledPasses(50, 0, name) for name in ("labeled", "unlabeled")}
        return StepSampler(orders, {"labeled": 8, "unlabeled": 24}, 9, rank, ranks)

    whole = list(sampler(0, 1))
    parts = [list(sampler(rank, world)) for rank in range(world)]
    for step in range(9):
        assert all(part[step]["position"] == step for part in parts)
        for stream in ("labeled", "unlabeled"):
            joined = [position for part in parts for position in part[step][stream]]
            assert joined == whole[step][stream].tolist()


def test_starting_later_gives_the_rest_and_the_length_stays_that_of_the_run():
    orders = {"labeled": ShuffledPasses(10, 0, "labeled")}
    whole = list(StepSampler(orders, {"labeled": 4}, 12))
    later = StepSampler(orders, {"labeled": 4}, 12, start=lambda: 7)
    rest = list(later)
    assert [r["position"] for r in rest] == [7, 8, 9, 10, 11] and len(later) == 12
    assert all((r["labeled"] == w["labeled"]).all() for r, w in zip(rest, whole[7:], strict=True))


def test_indivisible_batches_are_refused():
    with pytest.raises(ValueError, match="7 samples of stream 'labeled' do not divide by 2"):
        StepSampler({"labeled": ShuffledPasses(10, 0, "labeled")}, {"labeled": 7}, 3, world=2)


class Numbered:
    """An order whose every position is the number of the survey that made it."""

    def __init__(self, number: int):
        self.number = number

    def take(self, start, stop):
        return torch.full((stop - start,), self.number)


class AsRead(torch.utils.data.Dataset):
    def __getitem__(self, request):
        return request


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("begin", [0, 5])
def test_a_live_order_is_not_read_beyond_the_step_at_which_it_changes(workers, begin):
    """A survey after every 4 micro-batches. Workers fetch ahead, but not across it."""
    surveys = begin // 4
    live = LiveOrder(lambda: Numbered(surveys))
    sampler = StepSampler(
        {"labeled": live},
        {"labeled": 2},
        11,
        start=lambda: begin,
        horizon=lambda step: step // 4 * 4 + 4,
    )
    loader = StepLoader(
        AsRead(), sampler, workers=workers, persistent=True, state=dict, restore=dict
    )
    for twice in range(2):  # the iterator may be asked for again, as for a run that resumes
        surveys, seen = begin // 4, []
        for batch in loader:
            seen.append((batch["position"], batch["labeled"].tolist()))
            surveys = (batch["position"] + 1) // 4
        assert seen == [(step, [step // 4] * 2) for step in range(begin, 11)], twice


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 9, 500, 10007])
def test_evaluation_shares_are_complete_disjoint_and_meet(size, world):
    shares = [ShareSampler(size, 64, rank, world) for rank in range(world)]
    positions = [position for share in shares for batch in share for position in batch]
    assert sorted(positions) == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert max(len(batch) for share in shares for batch in share) <= 64


def test_a_rank_without_samples_has_an_empty_batch():
    """As many batches as the others: what they do together after the last one does not hang."""
    assert [[len(batch) for batch in ShareSampler(2, 8, rank, 3)] for rank in range(3)] == [
        [1],
        [1],
        [0],
    ]


def test_an_empty_batch_asks_no_source():
    """The sources of users need not know of it."""

    class Source:
        def __init__(self):
            self.targets = {"label": torch.zeros(2, dtype=torch.int64)}

        def __len__(self):
            return 2

        def fetch(self, indices):
            return torch.stack([torch.zeros(1) for _ in indices])  # fails for none

    batch = PartDataset(Part.whole(Source()))[np.empty(0, np.int64)]
    assert len(batch["index"]) == 0 and moved(batch, torch.device("cpu"))["data"] is None
