"""`python -m recipes.predict`, in this process."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

import recipes
from foundation.exit_codes import UNREADABLE
from recipes.predict.__main__ import main
from recipes.predict.table import safe_cell
from tests.support.command import write_pictures


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_pictures(pictures_run, place, capsys):
    write_pictures(place / "in" / "a", 3)
    write_pictures(place / "in" / "b", 2)
    (place / "in" / "a" / "1.png").write_text("broken")
    command = [f"run={pictures_run.folder}", "input=in", "output=out/labels.csv", "batch_size=2"]
    assert main(command) == UNREADABLE
    said = capsys.readouterr()
    assert (
        said.err
        == "unreadable: in/a/1.png: not a picture that can be read; repair or remove the file\n"
    )
    assert "4 inputs predicted, 1 unreadable" in said.out
    table = rows(place / "out" / "labels.csv")
    assert [row["input"] for row in table] == [
        "a/0.png",
        "a/1.png",
        "a/2.png",
        "b/0.png",
        "b/1.png",
    ]
    assert list(table[0]) == [
        "input",
        "label/label",
        "confidence/label",
        "label/parity",
        "confidence/parity",
    ]
    assert list(table[1].values())[1:] == [""] * 4
    model = recipes.load(pictures_run.folder)
    for row in (table[0], table[4]):
        found = model.predict(place / "in" / row["input"], "probabilities")["parity"]
        assert row["label/parity"] == model.classes["parity"][int(found.argmax())]
        assert float(row["confidence/parity"]) == pytest.approx(float(found.max()), abs=2e-6)
    assert main(command) == 2 and "exists already" in capsys.readouterr().err
    assert main([*command, "overwrite=true", "embeddings=true"]) == UNREADABLE
    assert list(rows(place / "out" / "labels.csv")[0])[-1] == "e15"


def test_tables_and_lists_of_texts(texts_run, place):
    (place / "in.csv").write_text('id,text\n1,a red thing\n2,"blue, all of it"\n')
    (place / "in.txt").write_text("a red thing\n\nblue, all of it\n")
    for file, code in (("in.csv", 0), ("in.txt", UNREADABLE)):
        given = [f"run={texts_run.folder}", f"input={file}", f"output={file}.out"]
        assert main([*given, "probabilities=true"]) == code
    found, same = rows(place / "in.csv.out"), rows(place / "in.txt.out")
    assert set(same.pop(1).values()) == {""}  # the empty line has its row
    assert found == same and [row["input"] for row in found] == ["a red thing", "blue, all of it"]
    assert list(found[0]) == ["input", "label", "confidence", "p/blue", "p/green", "p/red"]
    assert float(found[0]["confidence"]) == max(
        float(found[0][f"p/{c}"]) for c in ("blue", "green", "red")
    )


def test_a_list_of_paths(pictures_run, place):
    write_pictures(place / "in", 2)
    (place / "in" / "list.csv").write_text("path\n0.png\n1.png\n")
    assert main([f"run={pictures_run.folder}", "input=in/list.csv", "output=out.csv"]) == 0
    assert all(row["label/parity"] for row in rows(place / "out.csv"))


def test_mistakes_are_lines(texts_run, place, capsys):
    (place / "in.csv").write_text("id,txet\n1,a\n")
    run = f"run={texts_run.folder}"
    for arguments, words in (
        (
            ["rnu=x", "input=in.csv"],
            ["rnu: there is no such key; did you mean 'run'?", "run: is missing", "output:"],
        ),
        (
            [run, "input=in.cvs", "output=o"],
            ["input: there is no 'in.cvs'; did you mean 'in.csv'?"],
        ),
        (
            [run, "input=in.csv", "output=o"],
            ["'in.csv' has several columns; choose one of id, txet: column=NAME"],
        ),
        (
            [run, "input=in.csv", "output=o", "column=txt"],
            ["no column 'txt'; did you mean 'txet'?"],
        ),
        (
            [run, "input=in.csv", "output=o", "batch_size=0"],
            ["batch_size: got '0', expected a whole number at least"],
        ),
        ([run, "input=in.csv", "output=o", "--fast"], ["--fast: expected KEY=VALUE"]),
        (["run=.", "input=in.csv", "output=o"], ["run: '.' is no run"]),
    ):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(words) and all(
            word in line for word, line in zip(words, lines, strict=True)
        ), lines
        assert all(line.startswith("error: ") for line in lines) and not (place / "o").exists()


INPUTS = ["a red thing", "x\u2028y\x85z\x0cw", "", "blue", "  ", "=1+1", "-1", "nan"]


def predicted(run, file, *arguments):
    """The table of a run for a file."""
    assert main([f"run={run.folder}", f"input={file}", f"output={file}.out", *arguments]) in (
        0,
        UNREADABLE,
    )
    with Path(f"{file}.out").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def write_inputs(path):
    """The same inputs in every format, each with the number of its rows."""
    quoted = [text.replace('"', '""') for text in INPUTS]
    lines = {
        ".txt": INPUTS,
        ".csv": ["text", *(f'"{text}"' for text in quoted)],
        ".tsv": ["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(INPUTS))],
        ".jsonl": [json.dumps({"text": text or None}) for text in INPUTS],
    }
    content = "\n".join(lines[path.suffix]) + "\n"
    path.write_bytes(content.encode())
    return path.name


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl"])
def test_one_row_in_is_one_row_out(texts_run, place, capsys, suffix):
    found = predicted(texts_run, write_inputs(place / f"in{suffix}"))
    assert [row["input"].strip().lstrip("'") for row in found] == [t.strip() for t in INPUTS]
    assert [bool(row["label"]) for row in found] == [bool(text.strip()) for text in INPUTS]
    said = capsys.readouterr()
    assert "6 inputs predicted, 2 unreadable" in said.out
    first = 4 if suffix in (".csv", ".tsv") else 3
    assert f"unreadable: in{suffix}:{first}: " in said.err and "empty" in said.err


def test_missing_and_unsuitable_values_are_not_predicted(texts_run, place, capsys):
    given = ['{"text": null}', '{"text": NaN}', "", '{"id": 1}', '{"text": ["a"]}']
    given += ['{"text": "a red thing"}', '{"text": "\\ud800"}', '{"text": 3}']
    (place / "in.jsonl").write_text("\n".join(given) + "\n")
    found = predicted(texts_run, "in.jsonl", "column=text")
    assert [bool(row["label"]) for row in found] == [False] * 5 + [True, False, True]
    said = capsys.readouterr().err
    assert "in.jsonl:5: column 'text' is list, not a value" in said
    assert "in.jsonl:7: column 'text' is '\\ud800', not valid Unicode" in said


def test_rows_of_blank_lines_alone(texts_run, place):
    (place / "in.jsonl").write_text("\n\n")
    assert [row["label"] for row in predicted(texts_run, "in.jsonl")] == ["", ""]


def test_cells_are_no_formulas(texts_run, place):
    given = ["=1+1", "+cmd", "-x", "@sum", "-5", "+.5e3", "a=b", "＝1"]
    (place / "in.txt").write_text("\n".join(given) + "\n")
    found = [row["input"] for row in predicted(texts_run, "in.txt")]
    assert found == ["'=1+1", "'+cmd", "'-x", "'@sum", "-5", "+.5e3", "a=b", "'＝1"]
    assert safe_cell("\tx") == "'\tx" and safe_cell("caf\udce9") == "caf\\udce9"


def test_pictures_that_are_none_have_their_rows(pictures_run, place, capsys):
    write_pictures(place / "in", 2)
    write_pictures(place / "in" / ".ipynb_checkpoints", 2)
    (place / "in" / "._0.png").write_bytes(b"resource fork")
    (place / "in" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(place / "in" / "pipe.png")
    Image.new("L", (8, 8)).save(place / "in" / os.fsdecode(b"caf\xe9.png"))
    found = predicted(pictures_run, "in")
    assert [row["input"] for row in found] == [
        "0.png",
        "1.png",
        "caf\\udce9.png",
        "gone.png",
        "pipe.png",
    ]
    assert [bool(row["label/label"]) for row in found] == [True, True, True, False, False]
    said = capsys.readouterr().err
    assert "gone.png: a link to 'nowhere.png', which does not exist" in said
    assert "pipe.png: cannot be read (a pipe" in said and "resume" not in said
    (place / "list.csv").write_text("path\nin/0.png\n\nin/none.png\n")
    found = predicted(pictures_run, "list.csv")
    assert [bool(row["label/label"]) for row in found] == [True, False, False]


def test_messages_name_no_key_of_training(texts_run, place, capsys):
    (place / "in.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    assert main([f"run={texts_run.folder}", "input=in.csv", "output=o"]) == 2
    said = capsys.readouterr().err
    assert "in.csv: not utf-8 (byte 8 is 0xe9); save it as utf-8" in said and "data." not in said


def test_the_home_folder_is_known(texts_run, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (place / "in.txt").write_text("a red thing\n")
    assert main([f"run={texts_run.folder}", "input=~/in.txt", "output=~/o.csv"]) == 0
    assert len(rows(place / "o.csv")) == 1


def test_help(capsys):
    assert main(["--help"]) == 0 and "batch_size=64" in capsys.readouterr().out
