"""Ours, torchjd and the loop come to one gradient before they are timed, and the record says what
was found."""

import json

import pytest
import torch

from benchmarks.peers import task_steps
from benchmarks.peers.multi_task import CLI, METHODS, TOLERANCE, Bench, differences, measure

SMALL = ["--networks", "mlp", "--methods", "mgda", "--tasks", "2", "--rows", "4"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tasks", [2, 10])
def test_gradients_agree(method, tasks):
    found = differences(Bench("conv", method, tasks, 4, "cpu"))
    assert "the loop of T backwards" in found and len(found) >= 2
    assert max(found.values()) < TOLERANCE


def test_a_step_of_ours_weighs_what_is_shared_and_leaves_heads_alone():
    bench = Bench("mlp", "mgda", 3, 4, "cpu")
    weights = bench.ours("shared")()
    mine = [p.grad.clone() for p in bench.heads]
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    bench.plain()
    torch.testing.assert_close(mine, [p.grad for p in bench.heads])


def test_a_record_of_small_steps(tmp_path):
    out = tmp_path / "out.json"
    assert CLI.run(measure, [*SMALL, "--repeats", "2", "--least", "0", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    names = [row[3] for row in record["tables"][0]["rows"]]
    assert names[:4] == ["plain sum", "ours, rep", "ours, shared", "loop of T backwards"]
    assert ("torchjd, vectorised" in names) == (task_steps.aggregation is not None)
    assert all(float(row[-1]) > 0 for row in record["tables"][0]["rows"])  # peaks
    assert record["targets"][0]["text"] == "`rep` within 10 % of the plain summed step"


def test_a_difference_ends_it(monkeypatch, capsys):
    monkeypatch.setattr(task_steps, "min_norm", lambda gram: torch.ones(len(gram)))
    assert CLI.run(measure, SMALL) == 1
    assert "mlp mgda T=2: gradients differ from the loop" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--tasks", "1"], ["--rows", "0"], ["--methods", "cagrad"], ["--repeats", "0"]]
)
def test_mistakes_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        CLI.parse_args(wrong)
    assert "error" in capsys.readouterr().err
