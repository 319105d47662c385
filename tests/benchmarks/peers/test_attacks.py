"""The proof of equality at tiny size, and the record that is written."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.clock import Times
from benchmarks.peers import attacks
from methods.adversarial.attacks.bim import BIM

TINY = ["--width", "4", "--batch", "6", "--steps", "3"]


def calls():
    pytest.importorskip("torchattacks")
    return attacks.contenders(attacks.Bench(attacks.CLI.parse_args(TINY), torch.float64))


def without_momentum(monkeypatch):
    """BIM in the place of MI-FGSM."""
    other = (lambda k: BIM(k, attacks.STEP), *attacks.PAIRS["MI-FGSM"][1:])
    monkeypatch.setitem(attacks.PAIRS, "MI-FGSM", other)


def test_images_are_those_of_the_peer():
    found = attacks.differences(calls())
    assert found.keys() == {"PGD", "BIM", "MI-FGSM", "NI-FGSM", "TI-FGSM"}
    assert max(found.values()) <= attacks.TOLERANCE


def test_another_attack_would_be_seen(monkeypatch):
    without_momentum(monkeypatch)
    found = attacks.differences(calls())
    assert found["PGD"] <= attacks.TOLERANCE
    assert found["MI-FGSM"] > 1e-3


def test_a_record_is_written(tmp_path):
    pytest.importorskip("torchattacks")
    out = tmp_path / "found.json"
    words = [*TINY, "--repeats", "1", "--warmup", "0", "--json", str(out)]
    assert attacks.CLI.run(attacks.measure, words) == 0
    found = json.loads(out.read_text())
    who = [row[1] for row in found["tables"][0]["rows"]]
    assert who == [attacks.BARE, attacks.OURS, attacks.PEER] * 5
    assert [target["met"] in (True, False) for target in found["targets"]] == [True, True]


def test_nothing_is_timed_where_images_differ(monkeypatch, capsys):
    pytest.importorskip("torchattacks")
    without_momentum(monkeypatch)
    monkeypatch.setattr(attacks, "measured", lambda *args: pytest.fail("timed"))
    assert attacks.CLI.run(attacks.measure, TINY) == 1
    assert "nothing is timed" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--batch", "0"], ["--repeats", "0"]])
def test_mistakes(wrong):
    with pytest.raises(SystemExit):
        attacks.CLI.parse_args(wrong)


def test_a_judgement_names_the_worst():
    seconds = {"bare passes": 1.0, "Roux": 1.04, "torchattacks": 1.0}
    times = {"PGD": {who: Times([spent], [spent]) for who, spent in seconds.items()}}
    record = SimpleNamespace(targets=[], target=lambda *told: record.targets.append(told))
    attacks.judge(times, record, "cpu")
    assert [told[2] for told in record.targets] == [True, False]
    assert record.targets[1][1].startswith("PGD 1.040 (1.040..1.040)")
