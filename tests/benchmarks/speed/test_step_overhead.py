"""The benchmark's own claims: it compares equal things, and it says what it found. Times are not
asserted."""

import json
from functools import partial

import pytest
import torch

from benchmarks.clock import Clock, race, steady_memory
from benchmarks.record import Record
from benchmarks.speed import step_overhead
from benchmarks.speed.step_overhead import CASES, CLI, COLUMNS, PROOF, Bench, first_difference
from benchmarks.verdicts import Spread

ALONE = step_overhead.LIGHTNING
SLOW = [pytest.param("device", case, marks=pytest.mark.slow) for case in CASES["device"]]


@pytest.mark.parametrize(("regime", "case"), [*(("host", case) for case in CASES["host"]), *SLOW])
def test_losses_are_bit_equal_to_a_hand_written_loop(regime, case, tmp_path):
    bench = Bench(case, regime, "cpu", tmp_path)
    ours, bare = (run(Clock(0, PROOF - 1)) for run in (bench.ours, bench.bare))
    assert len(ours) == len(bare) == PROOF
    assert first_difference(ours, bare) is None
    assert len({loss.item() for loss in ours}) > PROOF // 2  # it trains: losses are not one number


def test_a_difference_in_the_last_bit_is_found_at_its_step():
    a = [torch.tensor(value) for value in (1.0, 2.0, 3.0)]
    b = [a[0], torch.nextafter(a[1], torch.tensor(9.0)), a[2]]
    assert first_difference(a, a) is None
    assert first_difference(a, b) == 1
    with pytest.raises(ValueError, match="shorter"):
        first_difference(a, a[:2])


@pytest.mark.slow
def test_tables_and_json(tmp_path):
    out = tmp_path / "out.json"
    short = ["--steps", "10", "--warmup", "0", "--repeats", "2", "--json", str(out)]
    words = ["--recipes", "fixmatch", "--regimes", "host", *short]
    assert CLI.run(step_overhead.measure, words) == 0
    record = json.loads(out.read_text())
    surroundings = {"date", "processor", "threads", "torch", "lightning", "commit"}
    assert surroundings <= record["surroundings"].keys()
    times, memory = record["tables"]
    names = ["bare loop", "bare loop, free", "bare step in Lightning", "Roux"]
    assert [row[0] for row in times["rows"]] == names
    assert all(float(row[1].split()[0]) > 0 for row in times["rows"])
    assert times["rows"][0][3] == "1.00 (1.00..1.00)"
    (target,) = record["targets"]  # what it allocates
    assert float(memory["rows"][0][2]) > 1 and target["met"] in (True, False)


def test_what_cannot_be_is_a_line(capsys):
    for wrong in (["--steps", "15"], ["--repeats", "0"], ["--recipes", "no"], ["--regimes", "gpu"]):
        with pytest.raises(SystemExit):
            CLI.parse_args(wrong)
    assert "multiples of 10" in capsys.readouterr().err


def test_variants_take_turns_block_by_block():
    order = []

    def run(name, clock):
        for _ in range(clock.total):
            clock.mark()
            order.append(name)

    runs = {"a": partial(run, "a"), "b": partial(run, "b")}
    times = race(runs, threads=1, warmup=2, steps=4, block=2)
    assert "".join(order) == "aabb" * 3 + "ab"
    assert [len(one.wall) for one in times.values()] == [2, 2]


@pytest.mark.parametrize("late", [False, True])
def test_a_variant_that_fails_ends_the_race(late):
    def run(clock, fails):
        for step in range(clock.total):
            if fails and step == 4 * late:
                raise ValueError("it fails")
            clock.mark()

    runs = {name: partial(run, fails=name == "b") for name in "abc"}
    with pytest.raises(ValueError, match="it fails"):
        race(runs, threads=1, warmup=2, steps=4, block=2)


def test_verdicts_are_of_what_was_measured():
    def found(ratio, beyond):
        spreads = {name: {column: Spread([0.0]) for column in COLUMNS} for name in ("Roux", ALONE)}
        spreads["Roux"] |= {"ratio": Spread([ratio]), "beyond Lightning": Spread([beyond])}
        spreads[ALONE]["ratio"] = Spread([1.035])
        return spreads

    record = Record("speed/step_overhead", "")
    step_overhead.judge_host(record, found(1.2, 4e-4))
    step_overhead.judge_host(record, found(1.2, 2e-4))
    step_overhead.judge_device(record, {"fixmatch": found(1.02, 0.0)})
    step_overhead.judge_device(record, {"fixmatch": found(1.04, 0.0)})
    step_overhead.judge_memory(record, {"fixmatch": (1000.0, 1000.0)})
    step_overhead.judge_memory(record, {"fixmatch": (1100.0, 1000.0)})
    assert [target.met for target in record.targets] == [False, True, True, False, True, False]
    assert "fixmatch 1.035 and +0.00 ms" in record.targets[3].why
    assert record.targets[2].why == "" and record.targets[5].why == step_overhead.MASKS


def test_memory_may_be_made_steady_more_than_once():
    steady_memory()
    steady_memory()
    assert torch.ones(2**24).sum() == 2**24
