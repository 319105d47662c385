"""The benchmark of surveys: the table is that of a loop by hand, and both are timed."""

import json

from benchmarks.speed.surveys import CLI, measure


def test_a_record_is_written(tmp_path):
    path = tmp_path / "surveys.json"
    options = ["--pictures", "1000", "--rows", "2000", "--repeats", "1", "--json", str(path)]
    assert CLI.run(measure, options) == 0
    targets = json.loads(path.read_text())["targets"]
    assert len(targets) == 2
