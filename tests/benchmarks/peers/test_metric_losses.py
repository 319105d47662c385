"""Ours and the peer's losses are the same before they are timed, and the record says what was
found."""

import json

import pytest

from benchmarks.peers import metric_losses
from benchmarks.peers.metric_losses import CLI, PAIRS, TOLERANCE, Data, Pair, difference, measure


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradients_are_the_peers(name):
    pytest.importorskip("pytorch_metric_learning")
    import torch

    found = difference(PAIRS[name], Data.drawn(32, 16, dtype=torch.float64))
    assert found < (1e-9 if PAIRS[name].apart == TOLERANCE else PAIRS[name].apart)


def test_a_record_of_small_batches(tmp_path):
    out = tmp_path / "out.json"
    small = ["--rows", "32", "--dims", "16", "--large", "64", "--repeats", "2", "--least", "0"]
    names = ["triplet, all", "lifted structure", "proxy-anchor"]
    assert CLI.run(measure, [*small, "--json", str(out), "--losses", *names]) == 0
    record = json.loads(out.read_text())
    rows = record["tables"][0]["rows"]
    assert [row[0] for row in rows] == names
    if metric_losses.losses is None:
        assert rows[0][4] == "not installed"
    else:
        assert {target["text"] for target in record["targets"]} > {"none slower", "in less memory"}
    assert [row[0] for row in record["tables"][1]["rows"]] == names
    assert all(float(row[3].split()[0]) > 0 for row in rows)  # ms of ours


def test_a_difference_ends_it(monkeypatch, capsys):
    pytest.importorskip("pytorch_metric_learning")
    wrong = Pair(PAIRS["triplet, all"].ours, PAIRS["multi-similarity"].peer)
    monkeypatch.setitem(PAIRS, "triplet, all", wrong)
    words = ["--rows", "32", "--dims", "16", "--losses", "triplet, all"]
    assert CLI.run(measure, words) == 1
    assert "triplet, all, B = 32, d = 16: differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--rows", "4"], ["--dims", "0"], ["--repeats", "0"], ["--losses", "contrastiv"]]
)
def test_mistakes_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        CLI.parse_args(wrong)
    assert "error" in capsys.readouterr().err
