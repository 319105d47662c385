import weakref

import pytest
import torch

from recipes.engine import meters as meters_module
from recipes.engine.meters import HELD, Interval, Meters, Stopwatch
from recipes.step import PseudoLabels


def number(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_exact_means_and_ratios():
    meters = Meters()
    for loss, right, seen in ((1.0, 1.0, 2.0), (2.0, 0.0, 0.0), (6.0, 5.0, 6.0)):
        meters.add({"loss": number(loss)}, {"accuracy": (number(right), number(seen))})
    # the ratio of sums, not the mean of the batches' ratios
    meters.add({}, {"soft": (number(0.125), number(0.5))})
    assert meters.flush() == {"loss": 3.0, "accuracy": 6 / 8, "soft": 0.25}
    assert meters.flush() == {}


def test_names_may_appear_and_vanish():
    meters = Meters()
    meters.add({"loss": number(1.0)}, {})
    meters.add({"loss": number(2.0), "extra": number(10.0)}, {})
    meters.add({}, {"ratio": (number(1.0), number(4.0))})
    meters.add({}, {})
    meters.add({"loss": number(6.0)}, {"ratio": (number(2.0), number(2.0))})
    assert meters.flush() == {"loss": 3.0, "extra": 10.0, "ratio": 0.5}


def test_a_denominator_that_stays_zero_is_left_out():
    meters = Meters()
    meters.add({"loss": number(1.0)}, {"accuracy": (number(0.0), number(0.0))})
    assert meters.flush() == {"loss": 1.0}


def test_values_are_detached_and_kept_apart_from_later_changes():
    meters, loss = Meters(), torch.tensor(2.0, requires_grad=True)
    meters.add({"loss": loss}, {})
    meters.add({"loss": loss * 2}, {})
    assert all(not interval.settle().requires_grad for interval in meters.sums.values())
    with torch.no_grad():
        loss.fill_(100.0)
    assert meters.flush() == {"loss": 3.0}


def test_more_steps_than_are_held_one_by_one():
    meters = Meters()
    for step in range(2 * HELD + 3):
        meters.add({"loss": number(float(step))}, {})
    assert meters.flush() == {"loss": HELD + 1.0}


BELIEVED = PseudoLabels(
    torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]),
    torch.tensor([0, 1, 0, 0]),
    torch.tensor([1.0, 1.0, 0.0, 1.0]),
)


def test_no_more_steps_are_kept_in_memory_than_are_held_one_by_one():
    interval, seen = Interval(), []
    for step in range(3 * HELD + 1):
        values = torch.tensor([float(step)])
        seen.append(weakref.ref(values))
        interval.add(values)
        del values
        assert sum(one() is not None for one in seen) <= HELD
    assert float(interval.settle()) == sum(range(3 * HELD + 1))


def test_ratios_of_pseudo_labels():
    meters = Meters()
    meters.add_pseudo_labels("", BELIEVED, torch.tensor([0, 0, 0, -1]))
    # accuracy: of the three kept ones two have a hidden label, and one of those is right
    assert meters.flush() == pytest.approx(
        {"mask_rate": 0.75, "confidence": 0.75, "pseudo_accuracy": 0.5}
    )
    assert meters.flush() == {}
    meters.add_pseudo_labels("/a", BELIEVED, None)
    assert set(meters.flush()) == {"mask_rate/a", "confidence/a"}


def test_pseudo_labels_are_counted_over_the_steps_of_an_interval():
    meters, sure = (
        Meters(),
        PseudoLabels(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), torch.tensor([True])),
    )
    for step in range(HELD + 1):
        meters.add_pseudo_labels(
            "", BELIEVED if step else sure, torch.tensor([0, 0, 0, -1] if step else [1])
        )
    expected = {"mask_rate": 3 * HELD + 1, "confidence": 3 * HELD + 1}
    ratios = {name: value / (4 * HELD + 1) for name, value in expected.items()}
    assert meters.flush() == pytest.approx(
        ratios | {"pseudo_accuracy": (HELD + 1) / (2 * HELD + 1)}
    )


def test_pseudo_labels_since_the_last_transfer_survive():
    whole, cut, rest = Meters(), Meters(), Meters()
    for meters in (whole, cut):
        meters.add_pseudo_labels("", BELIEVED, torch.tensor([0, 0, 0, -1]))
    rest.restore(cut.state(), torch.device("cpu"), rank=0, world=1)
    for meters in (whole, rest):
        meters.add_pseudo_labels("", BELIEVED, torch.tensor([0, 1, 0, 0]))
    assert rest.flush() == whole.flush()


def test_one_reduction_and_one_transfer_a_flush(monkeypatch):
    reduced = []
    monkeypatch.setattr(meters_module, "global_sum", lambda value: reduced.append(value) or value)
    meters = Meters()
    for step in range(10):
        meters.add({"loss": number(float(step))} | ({"late": number(1.0)} if step > 5 else {}), {})
    assert reduced == []
    assert meters.flush() == pytest.approx({"loss": 4.5, "late": 1.0})
    assert [len(value) for value in reduced] == [6]


def test_what_was_added_since_the_last_transfer_survives_to_the_bit():
    whole, cut, rest = Meters(), Meters(), Meters()
    source = torch.Generator().manual_seed(0)
    for step in range(7):
        scalars = {"loss": torch.rand((), generator=source), "a": torch.rand((), generator=source)}
        ratios = {"kept": (torch.rand((), generator=source), torch.tensor(3.0))} if step % 2 else {}
        whole.add(scalars, ratios)
        (cut if step < 4 else rest).add(scalars, ratios)
        if step == 3:
            rest.restore(cut.state(), torch.device("cpu"), rank=0, world=1)
    assert rest.flush() == whole.flush()


def test_each_rank_takes_its_row_and_another_number_of_ranks_the_sum():
    rows = [
        {"names": ["loss"], "values": torch.tensor([[2.0], [7.0]]), "steps": torch.tensor([1, 2])}
    ]
    taken: dict[tuple[int, int], Meters] = {
        (rank, world): Meters() for world in (1, 2, 3) for rank in range(world)
    }
    for (rank, world), meters in taken.items():
        meters.restore(rows, torch.device("cpu"), rank=rank, world=world)
    means = {where: meters.flush() for where, meters in taken.items()}
    assert means[0, 2] == {"loss": 2.0} and means[1, 2] == {"loss": 3.5}
    assert means[0, 1] == means[0, 3] == {"loss": 3.0}
    assert means[1, 3] == means[2, 3] == {}


def test_a_watch_continues_from_the_seconds_before():
    watch = Stopwatch(10.0)
    watch.start()
    assert 10.0 < watch.seconds < 11.0
    watch.stop()
    stood = watch.seconds
    assert watch.seconds == stood
