"""All contenders give one set of figures, and the record says what was found."""

import json

import pytest

from benchmarks.peers import retrieval
from benchmarks.peers.retrieval import CONTENDERS, NEEDS, TOLERANCE, drawn, main


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
    small = ["--rows", "200", "--whole", "0", "--dim", "8", "--per-class", "4", "--repeats", "1"]
    assert main([*small, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    (table,) = record["tables"]
    assert table["rows"][0][0] == "ours" and table["rows"][1][1] == "not installed"
    (run,) = record["figures"]["200"]["ours"]
    assert run["wall"] > 0 and run["whole"] > 2**20 and 0 <= run["figures"]["map@r"] <= 1
    assert [target["text"] for target in record["targets"]] == ["bounded memory, 200 rows"]


def test_a_difference_is_named():
    runs = {
        name: [{"figures": {"map@r": value}}] for name, value in (("ours", 0.5), ("faiss", 0.501))
    }
    assert retrieval.apart(runs) == "map@r: faiss says 0.5010000, ours 0.5000000"
    runs["faiss"][0]["figures"]["map@r"] = 0.5 + TOLERANCE / 2
    assert retrieval.apart(runs) is None


@pytest.mark.parametrize(
    "wrong", [["--per-class", "1"], ["--rows", "9"], ["--rows", "73"], ["--repeats", "0"]]
)
def test_mistakes_are_named(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error" in capsys.readouterr().err
