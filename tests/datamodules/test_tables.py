"""Cells and rows of text files: missing values, odd characters, and a class order that is the same
in every process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.datamodule import StreamDataModule
from datamodules.sources.named_text import CLINC150, SST, AGNews
from datamodules.sources.tables import label_of, lines_of, read_rows, read_text, text_of
from datamodules.sources.text_file import TextFile, class_names
from datamodules.text.prepare import Tokenize
from datamodules.views.text import Raw
from foundation.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = [("one word", "a"), ("two words", "b"), ("more words", "a"), ("last words", "b")]


def write(path, text, encoding="utf8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def jsonl(path, rows):
    return write(path, "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))


def refused(load, words):
    with pytest.raises(UserError, match=words) as caught:
        load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


# -- order of classes ------------------------------------------------------------------------------
def test_class_order_is_total():
    assert class_names(["1", "01", "2", "001"]) == ["001", "01", "1", "2"]
    assert class_names(["--5", "5", "-4"]) == ["--5", "-4", "5"]
    assert class_names(["5", "\u0663", "²"]) == ["5", "²", "\u0663"]
    digits = "9" * 5000
    assert class_names([digits, "1"]) == ["1", digits]


ORDERS = """
import sys
from datamodules.sources.text_file import TextFile
from datamodules.text.tokenizer import train_tokenizer
splits = TextFile(sys.argv[1]).load(None)
texts = splits.train.texts
print(splits.train.classes, splits.train.targets, texts)
print(train_tokenizer(texts, 150).backend.to_str())
"""


def test_classes_split_and_tokenizer_are_the_same_under_any_hash_seed(tmp_path):
    labels = ["1", "01", "001", "0001", "2", "02"]
    texts = (f"w{i}ord {chr(0x100 + i)} of {'xyz' * (i % 5)}" for i in range(240))
    file = jsonl(tmp_path / "a.jsonl", [(t, labels[i % 6]) for i, t in enumerate(texts)])
    seen = set()
    for seed in "01":
        done = subprocess.run(
            [sys.executable, "-c", ORDERS, file],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1 and "'0001', '001', '01', '1', '02', '2'" in seen.pop()


# -- missing values --------------------------------------------------------------------------------
MISSING = [None, "", "  ", float("nan"), "nan", "NaN", "-nan", "-1", -1, -1.0, " -1 "]


@pytest.mark.parametrize("value", MISSING)
def test_a_missing_label_is_refused_or_no_label(tmp_path, value):
    assert label_of(value) is None
    file = jsonl(tmp_path / "a.jsonl", [*ROWS[:2], ("odd", value), *ROWS[2:]])
    refused(
        lambda: TextFile(file, unlabeled=False).load(None),
        r"a\.jsonl:3: label missing .* in every row, or data\.source\.unlabeled=true",
    )
    splits = TextFile(file).load(None)
    assert splits.train.classes == {"label": ["a", "b"]}
    assert splits.train.targets["label"][splits.train.texts.index("odd")] == -1
    assert len(splits.train) + len(splits.test) == 5 and "odd" not in splits.test.texts


@pytest.mark.parametrize("value", ["inf", "-Infinity", float("inf"), ["a"], {"a": 1}, "\udce9"])
def test_labels_that_are_no_class_are_refused(tmp_path, value):
    file = jsonl(tmp_path / "a.jsonl", [*ROWS, ("odd", value)])
    for unlabeled in (False, True):
        refused(lambda: TextFile(file, unlabeled=unlabeled).load(None), r"a\.jsonl:5: label miss")  # noqa: B023


@pytest.mark.parametrize("value", [None, "", float("nan"), [], {"a": 1}, "\ud800x"])
def test_texts_that_are_none_are_refused(tmp_path, value):
    file = jsonl(tmp_path / "a.jsonl", [*ROWS, (value, "a")])
    for unlabeled in (False, True):
        refused(lambda: TextFile(file, unlabeled=unlabeled).load(None), r"a\.jsonl:5: text miss")  # noqa: B023


def test_words_that_look_like_missing_values_stay_texts():
    assert [text_of(word) for word in ("nan", "None", "null", "-1", 0, False)] == [
        "nan", "None", "null", "-1", "0", "False"
    ]  # fmt: skip
    assert [label_of(word) for word in ("NA", "none", "0", 0, False, "nano", "-10")] == [
        "NA", "none", "0", "0", "False", "nano", "-10"
    ]  # fmt: skip


def test_unlabeled_rows_are_read_by_the_unlabeled_stream(tmp_path):
    rows = ["text,topic,tone"]
    rows += [f"word {i},{'ab'[i % 2]},{'xy'[i % 2] if i % 3 else ''}" for i in range(24)]
    rows += [f"free {i},-1,nan" for i in range(6)]
    file = write(tmp_path / "a.csv", "\n".join(rows) + "\n")
    source = TextFile(file, label_column=["topic", "tone"], unlabeled=True)
    data = StreamDataModule(source, text=Tokenize(), views={"raw": Raw()}, val_fraction=0)
    data.setup()
    pool, labeled = data.sizes["unlabeled"], data.sizes["labeled"]
    assert pool == labeled + 6 and pool + data.sizes["test"] == 30
    assert data.has_missing("tone") and not data.has_missing("topic")
    assert (data.parts["test"].targets["topic"] >= 0).all()


def test_no_label_at_all(tmp_path):
    file = write(tmp_path / "a.csv", "text,label\na,\nb,-1\n")
    refused(lambda: TextFile(file, unlabeled=True).load(None), "no row has a label .*'label'")


def test_unlabeled_rows_of_a_test_file(tmp_path):
    train = jsonl(tmp_path / "a.jsonl", ROWS)
    test = jsonl(tmp_path / "b.jsonl", [*ROWS, ("odd", None)])
    splits = TextFile(train, test, unlabeled=True).load(None)
    assert splits.test.targets["label"].tolist() == [0, 1, 0, 1, -1]


# -- rows and columns ------------------------------------------------------------------------------
WRONG = {
    "a column twice": ("a.csv", "text,label,label\nx,a,b\n", r"a\.csv:1: column 'label' occurs tw"),
    "a key twice": ("a.jsonl", '{"text": "x", "label": 1, "label": 2}', "key 'label' occurs twice"),
    "semicolons": ("a.csv", "text;label\nx;a\ny;b\n", r"separated by ';'; expected ','"),
    "quoted semicolons": ("a.csv", '"text";"label"\n"x";"a"\n', r"separated by ';'; expected ','"),
    "tabs in csv": ("a.csv", "text\tlabel\nx, y\ta\n", "separated by tabs; expected ','"),
    "commas in tsv": ("a.tsv", "text,label\nx,a\n", "separated by ','; expected tabs"),
    "bars": ("a.csv", "text|label\nx, y|a\n", r"separated by '\|'; expected ','"),
    "deep JSON": ("a.jsonl", "[" * 100_000, r"a\.jsonl:1: broken JSON \(nested too deep\)"),
    "deep object": ("a.jsonl", '{"text":' * 100_000, r"a\.jsonl:1: broken JSON \(nested too deep"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables_are_one_line(tmp_path, case):
    name, text, words = WRONG[case]
    refused(lambda: TextFile(write(tmp_path / name, text)).load(None), words)


def test_columns_without_a_name_may_be_several(tmp_path):
    file = write(tmp_path / "a.csv", "text,label,,\nx,a,,\ny,b,,\nz,a,,\nu,b,,\n")
    splits = TextFile(file).load(None)
    assert len(splits.train) + len(splits.test) == 4


def test_a_deep_file_of_a_published_set(tmp_path):
    (tmp_path / "data_full.json").write_text("[" * 100_000)
    refused(lambda: CLINC150().load(tmp_path), "not CLINC150's JSON")


def test_long_fields(tmp_path):
    text = "word " * 60_000
    file = write(tmp_path / "a.csv", "text,label\n" + f'"{text}",a\n{text},b\n' * 2)
    splits = TextFile(file).load(None)
    assert {*splits.train.texts, *splits.test.texts} == {text.strip()}


def test_lines_end_with_newlines_only(tmp_path):
    odd = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\rh"
    path = tmp_path / "a.txt"
    path.write_bytes(f"{odd}\r\n{odd}\n\n".encode())
    assert lines_of(read_text(path)) == [odd, odd, ""]
    path.write_bytes(b"a\rb\r")
    assert lines_of(read_text(path)) == ["a", "b"]
    assert lines_of("") == [] and lines_of("\n") == [""]


def test_blank_lines_are_rows_where_rows_are_counted(tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    write(table, "x,y\n\n1,2\n,\n\n")
    write(lines, '\n{"x": 1}\n\n')
    empty = {"x": None, "y": None}
    assert list(read_rows(table, "csv", blank=True)) == [
        (2, empty), (3, {"x": "1", "y": "2"}), (4, empty), (5, empty)
    ]  # fmt: skip
    assert list(read_rows(lines, "jsonl", blank=True)) == [(1, {}), (2, {"x": 1}), (3, {})]
    assert [line for line, _ in read_rows(table, "csv")] == [3]
    assert [line for line, _ in read_rows(lines, "jsonl")] == [2]


# -- files -----------------------------------------------------------------------------------------
def test_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", "text,label\n" + "".join(f"{t},{y}\n" for t, y in ROWS))
    (tmp_path / "ag_news_small").mkdir()
    for name in ("train.csv", "test.csv"):
        write(tmp_path / "ag_news_small" / name, "0,first\n1,second\n")
    assert len(TextFile("~/a.csv", "~/a.csv").load(None).test) == 4
    assert len(TextFile("a.csv", "a.csv").load("~").test) == 4
    assert len(AGNews().load("~/ag_news_small").test) == 2
    refused(lambda: TextFile("~nobody-here/a.csv").load(None), "~nobody-here/a.csv: no such file")


def test_encodings_that_do_not_fit(tmp_path):
    content = "text,label\ncafé,a\n"
    write(tmp_path / "wide.csv", content, "utf-16")
    write(tmp_path / "a.csv", content, "latin-1")
    file = str(tmp_path / "wide.csv")
    refused(lambda: TextFile(file).load(None), r"another data\.source\.encoding, utf-16$")
    file = str(tmp_path / "a.csv")
    refused(lambda: TextFile(file).load(None), r"data\.source\.encoding, e\.g\. latin-1$")
    refused(lambda: TextFile(file, encoding="utf-32").load(None), "not utf-32")
    refused(lambda: TextFile(file, encoding="hex").load(None), "encoding=hex: no such encoding")


def test_a_loader_without_an_encoding_does_not_name_the_setting(tmp_path):
    write(tmp_path / "train.csv", "0,café\n", "latin-1")
    write(tmp_path / "test.csv", "0,café\n", "latin-1")
    refused(lambda: AGNews().load(tmp_path), r"not utf-8 \(byte 5 is 0xe9\); save it as utf-8$")


def test_a_class_number_of_many_digits(tmp_path):
    digits = "1" * 5000
    for name in ("train.csv", "test.csv"):
        write(tmp_path / name, f"{digits},some text\n")
    with pytest.raises(UserError, match="expected 0 to 3, then text"):
        AGNews().load(tmp_path)
    for part in ("train", "dev", "test"):
        write(tmp_path / f"stsa.binary.{part}", f"{digits} some text\n")
    with pytest.raises(UserError, match="expected 0 to 1"):
        SST().load(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path, impatient):
    os.mkfifo(tmp_path / "a.csv")
    refused(
        lambda: TextFile(str(tmp_path / "a.csv")).load(None), r"a\.csv: cannot be read \(a pipe"
    )


def test_a_table_of_many_unlabeled_rows_keeps_its_split(tmp_path):
    """Rows without a label do not move the others between the parts."""
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(20)]
    alone = TextFile(jsonl(tmp_path / "a.jsonl", rows)).load(None)
    free = [(f"free {i}", None) for i in range(30)]
    both = TextFile(jsonl(tmp_path / "b.jsonl", rows + free), unlabeled=True).load(None)
    assert both.test.texts == alone.test.texts
    assert torch.equal(both.train.targets["label"][:16], alone.train.targets["label"])
