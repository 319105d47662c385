"""`python -m recipes.predict`, in this process."""

import csv

import pytest

import recipes
from recipes.predict.__main__ import main
from tests.support.command import write_pictures


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_pictures(pictures_run, place, capsys):
    write_pictures(place / "in" / "a", 3)
    write_pictures(place / "in" / "b", 2)
    (place / "in" / "a" / "1.png").write_text("broken")
    command = [f"run={pictures_run.folder}", "input=in", "output=out/labels.csv", "batch_size=2"]
    assert main(command) == 0
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
    assert main([*command, "overwrite=true", "embeddings=true"]) == 0
    assert list(rows(place / "out" / "labels.csv")[0])[-1] == "e15"


def test_tables_and_lists_of_texts(texts_run, place):
    (place / "in.csv").write_text('id,text\n1,a red thing\n2,"blue, all of it"\n')
    (place / "in.txt").write_text("a red thing\n\nblue, all of it\n")
    for file in ("in.csv", "in.txt"):
        assert (
            main(
                [
                    f"run={texts_run.folder}",
                    f"input={file}",
                    f"output={file}.out",
                    "probabilities=true",
                ]
            )
            == 0
        )
    found, same = rows(place / "in.csv.out"), rows(place / "in.txt.out")
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


def test_help(capsys):
    assert main(["--help"]) == 0 and "batch_size=64" in capsys.readouterr().out
