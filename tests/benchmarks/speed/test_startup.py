"""The start-up benchmark: stages that add up to what the process took, packages from the log of
imports."""

import json

import pytest

from benchmarks.speed.startup import CLI, ENGINE, STAGES, by_package, main

LOG = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   torch._C
import time:   2000000 |    2000100 | torch
import time:    500000 |     500000 |     timm.models
noise
"""


def test_own_time_by_package():
    assert by_package(LOG) == pytest.approx({"torch": 2.0001, "timm": 0.5})
    assert list(by_package(LOG)) == ["torch", "timm"]


def test_arguments():
    assert CLI.parse_args([]).repeats == 5
    for wrong in (["--repeats", "0"], ["--threads", "0"], ["--device", "tpu"]):
        with pytest.raises(SystemExit):
            CLI.parse_args(wrong)


@pytest.mark.slow
def test_a_record(tmp_path):
    assert main(["--repeats", "1", "--json", str(tmp_path / "out.json")]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    stages = record["figures"]["stages"]
    assert list(stages) == list(STAGES) and all(
        len(values) == 1 and values[0] > 0 for values in stages.values()
    )
    assert {"torch", "pytorch_lightning"} <= record["figures"]["imports"].keys()
    assert (
        not {"timm", "wandb", "sklearn"} & record["figures"]["imports"].keys()
    )  # digits need none of them
    assert len(record["figures"][ENGINE]) == 1 and ENGINE in record["targets"][0]["why"]
