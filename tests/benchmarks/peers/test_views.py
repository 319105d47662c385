"""The benchmark of views: it compares equal operations, sees unequal ones, and says what it
found."""

import json

import pytest
from PIL import Image

from benchmarks.peers.view_peers import (
    load_torchssl,
    semilearn_folder,
    torchssl_operation,
    torchvision_operation,
)
from benchmarks.peers.views import CLI, EQUAL, least_equal, measure


def test_every_operation_at_every_level_equals_torchvisions() -> None:
    share, which = least_equal("nm", torchvision_operation, 32, whole=True)
    assert share >= EQUAL, which


def test_every_operation_at_every_level_equals_the_published_codes() -> None:
    folder = semilearn_folder()
    if folder is None:
        pytest.skip("semilearn is not installed")
    share, which = least_equal("usb", torchssl_operation(load_torchssl(folder)), 32)
    assert share >= EQUAL, which


def test_a_wrong_operation_is_seen() -> None:
    def wrong(picture: Image.Image, name: str, value: float) -> Image.Image:
        return torchvision_operation(picture, "brightness" if name == "contrast" else name, value)

    share, which = least_equal("nm", wrong, 32, whole=True)
    assert share < EQUAL and "contrast" in which


def test_a_record_is_written(tmp_path, capsys) -> None:
    out = tmp_path / "views.json"
    sizes = ["--sides", "32", "--batch", "4", "--cores", "1", "--repeats", "1"]
    assert CLI.run(measure, [*sizes, "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert record["benchmark"] == "views"
    assert len(record["tables"]) == 2 and len(record["targets"]) == 1
    assert "| 32×32" in printed and "torchvision / Pillow" in printed
    assert record["tables"][1]["rows"][0][1] == "Roux, fixmatch"


@pytest.mark.parametrize(
    "arguments", [["--repeats", "0"], ["--sides", "2"], ["--torchssl", "/nowhere"]]
)
def test_mistakes_are_reported(arguments) -> None:
    with pytest.raises((SystemExit, FileNotFoundError)):
        CLI.run(measure, arguments)
