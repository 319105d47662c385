"""The start-up benchmark: moments in the order in which they come, beside the bare import."""

import json

import pytest

from benchmarks.speed.startup import CLI, ENGINE, ROWS, measure


def test_arguments():
    assert CLI.parse_args([]).repeats == 5
    for wrong in (["--repeats", "0"], ["--threads", "0"], ["--device", "tpu"]):
        with pytest.raises(SystemExit):
            CLI.parse_args(wrong)


@pytest.mark.slow
def test_a_record(tmp_path):
    out = tmp_path / "out.json"
    assert CLI.run(measure, ["--repeats", "1", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    rows = record["tables"][0]["rows"]
    assert [row[0] for row in rows] == list(ROWS)
    config, first, end, engine = (float(row[1].split()[0]) for row in rows)
    assert 0 < config < first < end and 0 < engine < end
    assert ENGINE in record["targets"][0]["why"]
