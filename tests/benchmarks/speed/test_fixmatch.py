"""The benchmark of the whole step: equal first, a difference is seen, a sound record. Times are not
asserted."""

import json

import pytest
import torch

from benchmarks.speed import fixmatch

SMALL = ["--batch", "1", "--network", "resnet20_cifar", "--steps", "1", "--warmup", "0"]


def test_a_record_is_written(tmp_path, capsys) -> None:
    out = tmp_path / "fixmatch.json"
    assert fixmatch.CLI.run(fixmatch.measure, [*SMALL, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    (table,) = record["tables"]
    half = "Roux, trainer.precision=bf16-mixed"
    assert [row[0] for row in table["rows"]] == ["Roux", "bare loop", half, "forward, backward"]
    assert "of ours and of the bare loop are bit-equal" in table["note"]
    assert [target["text"] for target in record["targets"]] == [
        "the step over its arithmetic floor"
    ]
    assert "| Roux" in capsys.readouterr().out


def test_an_engine_that_differs_is_seen(monkeypatch, capsys) -> None:
    wrong = lambda self, clock: [torch.zeros(())] * clock.total  # noqa: E731
    monkeypatch.setattr(fixmatch.Bench, "bare", wrong)
    monkeypatch.setattr(fixmatch, "race", lambda *_, **__: pytest.fail("timed"))
    assert fixmatch.CLI.run(fixmatch.measure, SMALL) == 1
    assert "the bare loop" in capsys.readouterr().err


@pytest.mark.parametrize("argument", [["--batch", "0"], ["--steps", "0"], ["--warmup", "-1"]])
def test_mistakes_are_reported(argument) -> None:
    with pytest.raises(SystemExit):
        fixmatch.CLI.parse_args(argument)
