"""The benchmark of the whole step: equal first, differences are seen, a sound record. Times are not
asserted."""

import json

import pytest
import torch

from benchmarks.peers import semilearn_peer
from benchmarks.peers.fixmatch import CLI, Bench, main, prove

SMALL = ["--batch", "1", "--network", "resnet20_cifar", "--steps", "1", "--warmup", "0", "--also"]


@pytest.fixture
def bench(tmp_path):
    return Bench(CLI.parse_args(SMALL), tmp_path)


def test_ours_the_bare_loop_and_semilearn_agree(bench) -> None:
    difference, lines = prove(bench)
    assert difference is None
    assert len(lines) == 2


def test_another_loss_is_seen(bench, monkeypatch) -> None:
    step = semilearn_peer.step
    if semilearn_peer.load() is None:
        pytest.skip("semilearn is not installed")
    monkeypatch.setattr(semilearn_peer, "step", lambda made, batch: step(made, batch) * 1.001)
    difference, _ = prove(bench)
    assert difference is not None and "semilearn" in difference


def test_an_engine_that_differs_is_seen(bench, monkeypatch) -> None:
    monkeypatch.setattr(bench, "bare", lambda clock: [torch.zeros(())] * clock.total)
    difference, _ = prove(bench)
    assert difference is not None and "bare loop" in difference


def test_a_record_is_written(tmp_path, capsys) -> None:
    out = tmp_path / "fixmatch.json"
    assert main([*SMALL, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert {"Roux", "bare loop", "forward, backward", "apart"} <= record["figures"].keys()
    assert all(len(figures["seconds"]) == 1 for figures in record["figures"].values())
    assert any(target["text"].startswith("the step over") for target in record["targets"])
    assert "| Roux" in capsys.readouterr().out


@pytest.mark.parametrize("argument", [["--batch", "0"], ["--steps", "0"], ["--workers", "-1"]])
def test_mistakes_are_told(argument) -> None:
    with pytest.raises(SystemExit):
        main(argument)
