"""The proof of equality at tiny size, and the record that is written."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.clock import Times
from benchmarks.peers import peft

TINY = ["--layers", "2", "--width", "64", "--batch", "2", "--length", "8", "--side", "32"]
ROWS = [(kind, row) for kind, rows in peft.NETWORKS.items() for row in rows]


@pytest.mark.parametrize(("kind", "row"), ROWS, ids=[f"{kind}, {row.name}" for kind, row in ROWS])
def test_both_sides_give_equal_logits_and_gradients(kind, row):
    pytest.importorskip("peft")
    ours, theirs, pairs = peft.both(kind, row, peft.CLI.parse_args(TINY))
    assert peft.difference(ours, theirs, pairs) <= peft.TOLERANCE
    # with one delta of ours changed they differ
    with torch.no_grad():
        next(ours.net.deltas[row.key].parameters()).mul_(1.1)
    assert peft.difference(ours, theirs, pairs) > 10 * peft.TOLERANCE


def test_a_step_trains_the_delta_and_the_head_alone():
    pytest.importorskip("peft")
    ours, theirs, _ = peft.both("BERT", peft.BERT[0], peft.CLI.parse_args(TINY))
    assert sum(p.numel() for p in ours.trained) == sum(p.numel() for p in theirs.trained)
    before = [p.detach().clone() for p in ours.net.parameters()]
    ours.step()
    for parameter, value in zip(ours.net.parameters(), before, strict=True):
        assert torch.equal(parameter, value) != parameter.requires_grad


def test_a_record_is_written(tmp_path):
    pytest.importorskip("peft")
    out = tmp_path / "found.json"
    words = ["--networks", "BERT", "--methods", "LoRA", "prefix", "--repeats", "1", "--warmup", "0"]
    assert peft.CLI.run(peft.measure, [*TINY, *words, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [row[0] for row in found["tables"][0]["rows"]] == ["LoRA", "prefix"]
    assert [target["met"] in (True, False) for target in found["targets"]] == [True, True]


def test_nothing_is_timed_where_sides_differ(monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.setattr(peft, "difference", lambda *sides: float("nan"))
    monkeypatch.setattr(peft, "measured", lambda *calls: pytest.fail("timed"))
    words = [*TINY, "--methods", "LoRA", "--networks", "BERT"]
    assert peft.CLI.run(peft.measure, words) == 1
    assert "nothing is timed" in capsys.readouterr().err


def test_without_the_library_there_is_nothing_to_compare(monkeypatch, capsys):
    monkeypatch.setattr(peft, "installed", lambda package: "not installed")
    assert peft.CLI.run(peft.measure, TINY) == 1
    assert capsys.readouterr().err == "the peft library is not installed\n"


def test_a_judgement_says_why():
    told = []
    record = SimpleNamespace(target=lambda *said: told.append(said))
    one = Times(cpu=[1.0, 1.0, 1.0], peak=1000)
    fast, slow = peft.BERT[0], peft.VIT[1]
    peft.judge(
        "BERT",
        [
            (fast, Times(cpu=[0.9, 1.0, 1.1], peak=1000), one),
            (slow, Times(cpu=[1.1, 1.2, 1.3], peak=1004), one),
        ],
        record,
        "cpu",
    )
    assert [said[2] for said in told] == [False, False]
    assert "LoRA, queries and values apart 1.200 (1.100..1.300)" in told[0][1]
    assert told[1][3] == f"LoRA, queries and values apart: {peft.JOINED}"
    peft.judge("BERT", [(fast, one, one)], record, "cpu")
    assert [said[2:] for said in told[2:]] == [(True, ""), (True, "")]


@pytest.mark.parametrize(
    "wrong", [["--width", "100"], ["--side", "30"], ["--repeats", "0"], ["--methods", "lroa"]]
)
def test_mistakes(wrong):
    with pytest.raises(SystemExit):
        peft.CLI.parse_args(wrong)
