"""All contenders give one set of figures, and the record says what was found."""

import json

import pytest

from benchmarks.peers import retrieval
from benchmarks.peers.retrieval import CLI, CONTENDERS, NEEDS, TOLERANCE, drawn, measure


@pytest.mark.parametrize("name", [name for name in NEEDS if name != "ours"])
def test_figures_are_ours(name):
    for module in NEEDS[name]:
        pytest.importorskip(module)
    x, labels = drawn(300, 16, 6, "cpu")
    mine, theirs = CONTENDERS["ours"](x, labels), CONTENDERS[name](x, labels)
    assert theirs and 0 < mine["map@r"] < 1
    assert {metric: mine[metric] for metric in theirs} == pytest.approx(theirs, abs=TOLERANCE)


@pytest.mark.slow
def test_a_record_of_few_embeddings(tmp_path, monkeypatch):
    """Ours alone: the peers have tests of their own and take long to import."""
    monkeypatch.setattr(retrieval, "NEEDS", {"ours": (), "faiss": ("no_such_module",)})
    out = tmp_path / "out.json"
    small = ["--rows", "200", "--dim", "8", "--per-class", "4", "--repeats", "1"]
    assert CLI.run(measure, [*small, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    (table,) = record["tables"]
    assert table["rows"][0][0] == "ours" and table["rows"][1][1] == "not installed"
    _, seconds, _, peak, scores = table["rows"][0]
    assert float(seconds.split()[0]) >= 0 and float(peak) >= 0
    assert 0 < float(scores.split(" / ")[1]) <= 1
    assert [target["text"] for target in record["targets"]] == ["bounded memory, 200 rows"]


def test_a_difference_is_named():
    figures = {"ours": {"map@r": 0.5}, "faiss": {"map@r": 0.501}}
    assert retrieval.difference(figures) == "map@r: faiss says 0.5010000, ours 0.5000000"
    figures["faiss"]["map@r"] = 0.5 + TOLERANCE / 2
    assert retrieval.difference(figures) is None


@pytest.mark.parametrize(
    "wrong", [["--per-class", "1"], ["--rows", "9"], ["--rows", "73"], ["--repeats", "0"]]
)
def test_mistakes_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        CLI.parse_args(wrong)
    assert "error" in capsys.readouterr().err
