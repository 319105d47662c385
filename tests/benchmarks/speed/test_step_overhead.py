"""The benchmark's own claims: it compares equal things, and it says what it found. Times are not
asserted."""

import json
from functools import partial

import pytest
import torch

from benchmarks.clock import Clock, Sections, race, steady_memory
from benchmarks.record import Record
from benchmarks.speed.overhead_targets import judge
from benchmarks.speed.step_cases import CASES, pairs
from benchmarks.speed.step_overhead import PROOF, Bench, first_difference, main
from benchmarks.verdicts import Spread

SLOW = [
    pytest.param("device", case, marks=pytest.mark.slow)
    for _, case in pairs(list(CASES), ["device"])
]


@pytest.mark.parametrize(("regime", "case"), [*pairs(list(CASES), ["host", "input"]), *SLOW])
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
    assert first_difference(a, a[:2]) == 2


@pytest.mark.slow
def test_tables_and_json(tmp_path, capsys):
    out = tmp_path / "out.json"
    short = ["--steps", "10", "--warmup", "0", "--repeats", "2"]
    assert main(["--recipe", "fixmatch", "--regime", "host", *short, "--json", str(out)]) == 0
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    assert {"date", "processor", "threads", "torch", "lightning", "commit"} <= record[
        "surroundings"
    ].keys()
    assert [target["met"] for target in record["targets"]] in ([True], [False])  # what it allocates
    assert len(record["tables"]) == 3
    found = record["figures"]["host"]["fixmatch"]
    assert all(bytes_ > 2**20 for bytes_ in found["allocated"])
    names = {"bare loop", "bare loop, free", "bare step in Lightning", "Roux"}
    assert found["times"].keys() == names
    assert all(f"| {name} " in printed for name in names)
    for times in found["times"].values():
        assert all(row["min"] <= row["median"] <= row["max"] for row in times.values())
        assert all(times[key]["min"] > 0 for key in ("cpu", "wall", "ratio"))
    for column in found["sections"].values():
        assert column["all"] == pytest.approx(
            sum(value for name, value in column.items() if name != "all")
        )
    parts = {"loader", "views", "network", "backward", "optimizer", "averaged weights"}
    assert parts <= found["sections"]["Roux"].keys()


def test_what_cannot_be_is_a_line(capsys):
    for wrong in (["--steps", "15"], ["--repeats", "0"], ["--recipe", "no"], ["--regime", "gpu"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "multiples of 10" in capsys.readouterr().err


def test_variants_take_turns_block_by_block():
    order = []

    def run(name, clock):
        for _ in range(clock.total):
            clock.mark()
            order.append(name)

    clocks = [Clock(2, 4, block=2), Clock(2, 4, block=2)]
    race([partial(run, "a"), partial(run, "b")], clocks, threads=1)
    assert "".join(order) == "aabb" * 3 + "ab"
    assert [len(clock.blocks) for clock in clocks] == [2, 2]


def test_a_section_does_not_count_what_it_calls(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 6.0])  # outer opens, inner opens, inner closes, outer closes
    monkeypatch.setattr("benchmarks.clock.time.perf_counter", lambda: next(now))
    sections = Sections()
    inner = sections.timed(lambda: None, "inner")
    sections.timed(inner, "outer")()
    assert sections.spent == {"inner": 3.0, "outer": 3.0}


def test_verdicts_are_of_what_was_measured_and_say_where_it_goes():
    def entry(ratio, beyond):
        sections = {"bare step in Lightning": {"backward": 3e-3, "loader": 2e-4, "all": 3.2e-3}}
        sections["Roux"] = {"backward": 3e-3, "meters": 5e-4, "loader": 1e-4, "all": 3.6e-3}
        times = {"Roux": {"ratio": Spread([ratio]), "beyond": Spread([beyond])}}
        times["bare step in Lightning"] = {"ratio": Spread([1.035]), "beyond": Spread([0.0])}
        return {"times": times, "allocated": (1000.0, 1000.0), "sections": sections}

    record = Record("speed/step_overhead", "")
    judge(
        record, {("host", "five_methods"): entry(1.2, 4e-4), ("device", "lora"): entry(1.02, 0.0)}
    )
    assert [target.met for target in record.targets] == [False, True, True]
    assert "meters +0.50" in record.targets[0].why and "loader -0.10" in record.targets[0].why
    record = Record("speed/step_overhead", "")
    judge(
        record, {("host", "five_methods"): entry(1.2, 2e-4), ("device", "lora"): entry(1.04, 0.0)}
    )
    verdicts = [(target.met, bool(target.why)) for target in record.targets]
    assert verdicts == [(True, False), (False, True), (True, False)]
    assert "lora 1.035 and +0.00 ms" in record.targets[1].why


def test_memory_may_be_made_steady_more_than_once():
    steady_memory()
    steady_memory()
    assert torch.ones(2**24).sum() == 2**24
