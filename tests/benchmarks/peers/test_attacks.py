"""The proof of equality at tiny size, and the record that is written."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.peers import attacks

TINY = ["--width", "4", "--batch", "6", "--steps", "3", "--queries", "12", "--eps", "1"]


def bench():
    pytest.importorskip("torchattacks")
    return attacks.Bench(attacks.CLI.parse_args(TINY))


def test_images_are_those_of_the_peers():
    found = attacks.differences(bench(), [1 / 255, 8 / 255])
    assert {
        "PGD, torchattacks",
        "MI-FGSM, torchattacks",
        "square, eps 8/255, torchattacks",
    } <= found.keys()
    assert max(found.values()) <= attacks.TOLERANCE


def test_another_attack_would_be_seen(monkeypatch):
    made = bench()
    monkeypatch.setattr(attacks, "mi_fgsm", lambda *args: attacks.pgd(*args[:4], attacks.STEP))
    monkeypatch.setattr(
        attacks, "square_attack", lambda *args, **more: attacks.Queried(made.x, made.y, made.y > 0)
    )
    found = attacks.differences(made, [8 / 255])
    assert found["PGD, torchattacks"] <= attacks.TOLERANCE
    assert found["MI-FGSM, torchattacks"] > 1e-3
    assert found["square, eps 8/255, torchattacks"] == float("inf")


def test_a_record_is_written(tmp_path):
    pytest.importorskip("torchattacks")
    assert (
        attacks.main(
            [*TINY, "--repeats", "1", "--warmup", "0", "--json", str(tmp_path / "found.json")]
        )
        == 0
    )
    found = json.loads((tmp_path / "found.json").read_text())
    who = [row[1] for row in found["tables"][0]["rows"]]
    assert who[:2] == [attacks.BARE, attacks.OURS] and "torchattacks" in who
    assert [target["met"] in (True, False) for target in found["targets"]] == [True, True]


def test_nothing_is_timed_where_images_differ(monkeypatch, capsys):
    pytest.importorskip("torchattacks")
    monkeypatch.setattr(attacks, "mi_fgsm", lambda *args: attacks.pgd(*args[:4], attacks.STEP))
    monkeypatch.setattr(attacks, "measured", lambda *args: pytest.fail("timed"))
    assert attacks.main(TINY) == 1
    assert "nothing is timed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--queries", "1"], ["--batch", "0"], ["--eps", "0"], ["--repeats", "0"]]
)
def test_mistakes(wrong):
    with pytest.raises(SystemExit):
        attacks.CLI.parse_args(wrong)


def test_a_judgement_names_the_worst():
    seconds = {"bare passes": 1.0, "Roux": 1.04, "peer": 1.0}
    times = {"PGD": {who: attacks.Times([spent], [spent]) for who, spent in seconds.items()}}
    record = SimpleNamespace(targets=[], target=lambda *told: record.targets.append(told))
    attacks.judge(times, record, "cpu")
    assert [told[2] for told in record.targets] == [True, False]
    assert record.targets[1][1].startswith("PGD, peer 1.040 (1.040..1.040)")
    slow = {
        "square, eps 1/255": {
            who: attacks.Times([s], [s]) for who, s in (("bare passes", 1.0), ("Roux", 1.2))
        }
    }
    attacks.judge(slow, record, "cpu")
    assert len(record.targets) == 3 and record.targets[2][2:] == (False, attacks.DRAWS)
