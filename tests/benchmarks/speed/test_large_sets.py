"""The benchmark of large sets: sets of the asked size, a sound record, verdicts that know when they
cannot tell."""

import json

import pytest

from benchmarks.speed import large_sets
from benchmarks.speed.large_sets import CLI, measure, pictures, texts, verdict


def test_arguments():
    assert CLI.parse_args([]).rows == 10_000_000
    for wrong in (["--rows", "-1"], ["--pictures", "x"], ["--repeats", "0"]):
        with pytest.raises(SystemExit):
            CLI.parse_args(wrong)


def test_sets_have_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(large_sets, "LINKS", 7)
    monkeypatch.setattr(large_sets, "SENTENCES", 9)
    pictures(tmp_path / "pictures", 40)
    found = sorted(path.parent.name for path in (tmp_path / "pictures" / "test").rglob("*.png"))
    assert found == ["class0000", "class0001", "class0002", "class0003"]
    assert len(list((tmp_path / "pictures" / "train").rglob("picture*.png"))) == 36
    texts(tmp_path / "texts", 20)
    lines = (tmp_path / "texts" / "texts.csv").read_text().splitlines()
    assert len(lines) == 21 and len(lines[20].split()) == 13 and lines[20].endswith(" 19,3")


def test_verdicts():
    assert verdict(True, 10, 15, True) == (True, "")
    assert verdict(True, 10, 25, True)[0] is None and verdict(False, 10, 15, True)[0] is None
    assert verdict(True, 21, 25, True)[0] is False and verdict(False, 10, 15, False)[0] is False


def test_the_evaluation_alone(tmp_path):
    out = tmp_path / "out.json"
    small = ["--pictures", "0", "--rows", "0", "--classes", "50", "--json", str(out)]
    assert CLI.run(measure, small) == 0
    (table,) = json.loads(out.read_text())["tables"]
    assert table["title"] == "A batch of 256 with 50 classes"


@pytest.mark.slow
def test_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    out = tmp_path / "out.json"
    small = ["--classes", "0", "--pictures", "20000", "--rows", "60000", "--repeats", "1"]
    assert CLI.run(measure, [*small, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [table["title"] for table in record["tables"]] == ["20,000 pictures", "60,000 rows"]
    assert {target["met"] for target in record["targets"]} <= {None, False}
