"""Text sources: real sets have their published sizes, files are read right, and wrong ones give one
clear line.
"""

import ast
import json
import sys
import types

import pytest
import torch

from datamodules.sources import docstrings as doc
from datamodules.sources.docstrings import Docstrings
from datamodules.sources.named_text import CLINC150, SST, TREC, AGNews, Banking77
from datamodules.sources.text import TextSource, split_source, stratified_split
from datamodules.sources.text_file import TextFile, class_names
from foundation.errors import UserError
from tests.support.text_sets import DATA, real

SMALL = ["hydra", "rich", "pillow"]


@pytest.fixture(scope="module")
def small():
    return Docstrings(per_library=120, libraries=SMALL)


# -- docstrings ------------------------------------------------------------------------------------
def test_docstrings_are_english_labeled_and_the_same_every_time(small):
    one, two = small.load(None), small.load(None)
    assert one.train.texts == two.train.texts and one.test.texts == two.test.texts
    assert one.train.classes == {"label": SMALL} and small.info().tasks == {"label": 3}
    assert torch.bincount(one.train.targets["label"], minlength=3).min() >= 40
    assert not set(one.train.texts) & set(one.test.texts)
    words = " ".join(one.train.texts).lower().split()
    assert words.count("the") > len(words) / 50
    assert all(len(doc.WORD.findall(text)) >= 8 for text in one.train.texts)


def test_docstrings_do_not_name_their_library(small):
    for text in small.load(None).train.texts:
        assert not doc.NAME.search(text), text


def test_no_text_belongs_to_two_libraries(small):
    splits = small.load(None)
    seen = [text.lower() for text in splits.train.texts + splits.test.texts]
    assert len(seen) == len(set(seen))


def test_smaller_libraries_have_fewer_texts():
    sizes = {
        name: len(doc.python_files(doc.library_folders(name)[0])) for name in ("sympy", "rich")
    }
    splits = Docstrings(per_library=100, libraries=["sympy", "rich"]).load(None)
    counts = torch.bincount(
        torch.cat([splits.train.targets["label"], splits.test.targets["label"]])
    )
    assert counts[0] == 100 and counts[1] == round(100 * (sizes["rich"] / sizes["sympy"]) ** 0.5)


def test_cutting_files_finds_what_the_syntax_tree_has():
    """All docstrings in three double quotes, and nothing else (a handful of attribute notes
    apart)."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    total, missed, extra = 0, 0, 0
    for file in doc.python_files(doc.library_folders("rich")[0])[:30]:
        source = file.read_text("utf8")
        tree = [
            ast.get_docstring(node)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, kinds)
        ]
        expected = {text for text in tree if text}
        found = set(doc.docstrings(file))
        total, missed, extra = (
            total + len(expected),
            missed + len(expected - found),
            extra + len(found - expected),
        )
    assert total > 200 and missed + extra <= total / 50


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_docstrings_of_a_file(tmp_path, quotes):
    file = tmp_path / "module.py"
    file.write_text(
        '# a comment\n"""Module."""\nx = """not\n    one:\n    """\nclass A:  # why\n    r"""Raw \\d."""\n\n'
        f"    def f(self) -> int:\n        # note\n        {quotes}Tab\\tbed.{quotes}\n"
        '        return """no"""\n'
    )
    expected = {"Module.", "Raw \\d.", "Tab     bed."}
    assert set(doc.docstrings(file)) == expected


def test_clean_keeps_leading_prose():
    text = (
        "Use :class:`~torch.Tensor` with `numpy` *now*.\n\nMore in "
        "np.array.\n\nParameters\n-------\nx\n"
    )
    assert doc.clean(text, True) == "Use library.Tensor with library now . More in library.array."
    assert "torch.Tensor" in doc.clean(text, False)
    assert doc.clean("Words.\n\nArgs:\n    x: int", True) == "Words."
    assert doc.clean("Enriched torches.", True) == "Enriched torches."


def test_docstrings_know_their_libraries(monkeypatch):
    with pytest.raises(UserError, match=r"no library 'tporch'; did you mean 'torch'"):
        Docstrings(libraries=["tporch", "rich"])
    with pytest.raises(UserError, match="two or more"):
        Docstrings(libraries=["rich"])
    monkeypatch.setitem(doc.LIBRARIES, "rich", ("no_such_package_here",))
    with pytest.raises(UserError, match="'no_such_package_here' is not installed"):
        Docstrings(libraries=["rich", "hydra"]).load(None)


# -- text files ------------------------------------------------------------------------------------
ROWS = [
    ("Hello, world", "b"),
    ('She said "no"', "a"),
    ("line\nbreak", "b"),
    ("plain", "a"),
    ("more", "a"),
    ("x", "b"),
]


def write(path, text, encoding="utf8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def csv_of(rows, header="text,label\n"):
    quoted = ("".join(['"', text.replace('"', '""'), '",', label, "\n"]) for text, label in rows)
    return header + "".join(quoted)


def everything(splits):
    pairs = []
    for part in (splits.train, splits.test):
        names = part.classes["label"]
        pairs += [
            (t, names[y]) for t, y in zip(part.texts, part.targets["label"].tolist(), strict=True)
        ]
    return sorted(pairs)


def test_csv_jsonl_and_tsv_say_the_same(tmp_path):
    table = write(tmp_path / "a.csv", "\ufeff" + csv_of(ROWS))
    lines = write(
        tmp_path / "a.jsonl", "\n".join(json.dumps({"text": t, "label": y}) for t, y in ROWS)
    )
    assert (
        everything(TextFile(table).load(None))
        == everything(TextFile(lines).load(None))
        == sorted(ROWS)
    )
    flat = [(t.replace("\n", " "), y) for t, y in ROWS]
    tabs = write(tmp_path / "a.tsv", "label\ttext\n" + "".join(f"{y}\t{t}\n" for t, y in flat))
    assert everything(TextFile(tabs).load(None)) == sorted(flat)


def test_no_header_root_encoding_and_odd_line_ends(tmp_path):
    write(tmp_path / "a.csv", "0,café\r\n10,b\r\n2,c\r\n10,d\r\n0,e\r\n2,f\r\n", "latin-1")
    file = TextFile(
        "a.csv", "a.csv", text_column=1, label_column=0, encoding="latin-1", header=False
    )
    splits = file.load(str(tmp_path))
    assert splits.train.texts[0] == "café" and splits.train.classes["label"] == ["0", "2", "10"]
    assert splits.test.targets["label"].tolist() == [0, 2, 1, 2, 0, 1]
    assert file.info().tasks == {"label": None}


def test_several_label_columns_are_several_tasks(tmp_path):
    rows = "".join(f"t{i},{'ab'[i % 2]},{'xyz'[i % 3]}\n" for i in range(12))
    write(tmp_path / "a.csv", f"text,topic,tone\n{rows}")
    file = TextFile("a.csv", label_column=["topic", "tone"])
    assert file.info().tasks == {"topic": None, "tone": None}
    splits = file.load(str(tmp_path))
    assert splits.train.classes == {"topic": ["a", "b"], "tone": ["x", "y", "z"]}
    both = {**dict(pairs(splits.train)), **dict(pairs(splits.test))}
    assert both == {f"t{i}": (i % 2, i % 3) for i in range(12)}
    with pytest.raises(UserError, match=r"label_column=\['a', 'a'\]: name each column once"):
        TextFile("a.csv", label_column=["a", "a"])


def pairs(source):
    return zip(
        source.texts,
        zip(*(source.targets[t].tolist() for t in ("topic", "tone")), strict=True),
        strict=True,
    )


def test_class_names():
    assert class_names(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert class_names(["b", "10", "a"]) == ["10", "a", "b"]


GOOD = csv_of(ROWS)
WRONG = {
    "empty": ("a.csv", "", {}, "the file is empty"),
    "header only": ("a.csv", "text,label\n", {}, "no rows"),
    "no column": (
        "a.csv",
        GOOD,
        {"label_column": "lable"},
        r"no column 'lable' for the label; did you mean 'label'",
    ),
    "no label": (
        "a.csv",
        "text,label\na,x\nb,\n",
        {"unlabeled": False},
        r"a\.csv:3: label missing",
    ),
    "label after break": (
        "a.csv",
        'text,label\n"a\nb",x\nc, \n',
        {"unlabeled": False},
        r"a\.csv:4: label missing",
    ),
    "no text": ("a.csv", "text,label\n ,x\nb,y\n", {}, r"a\.csv:2: text missing"),
    "too few fields": (
        "a.csv",
        "text,label\na,x\nb\n",
        {},
        r"a\.csv:3: 1 fields; expected 2 \(text, label\)",
    ),
    "one class": ("a.csv", "text,label\na,x\nb,x\n", {}, "every label is 'x'"),
    "one of a class": ("a.csv", "text,label\na,x\nb,x\nc,y\n", {}, "class 'y' has one text"),
    "open quote": ("a.csv", 'text,label\na,x\n"b,y\n', {}, r"a\.csv:3: broken csv"),
    "broken JSON": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b"',
        {},
        r"a\.jsonl:2: broken JSON",
    ),
    "json list": ("a.jsonl", "[1, 2]\n", {}, "a JSON list"),
    "json null": (
        "a.jsonl",
        '{"text": "a", "label": null}',
        {"unlabeled": False},
        r"a\.jsonl:1: label missing",
    ),
    "ending": ("a.doc", GOOD, {}, "suffix '.doc' is not a known format"),
    "encoding name": ("a.csv", GOOD, {"encoding": "utf-9"}, "encoding=utf-9: no such encoding"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_give_one_line(tmp_path, case):
    name, text, options, message = WRONG[case]
    with pytest.raises(UserError, match=message) as caught:
        TextFile(write(tmp_path / name, text), **options).load(None)
    assert "\n" not in str(caught.value)


def test_undecodable_missing_and_unreadable_files(tmp_path):
    write(tmp_path / "a.csv", "text,label\ncafé,x\n", "latin-1")
    with pytest.raises(UserError, match=r"not utf-8 .*0xe9"):
        TextFile("a.csv").load(tmp_path)
    with pytest.raises(UserError, match=r"no such file; did you mean 'a.csv'"):
        TextFile("aa.csv").load(tmp_path)
    # an ending alone makes no name near
    with pytest.raises(UserError, match=r"no such file; known: a.csv"):
        TextFile("b.csv").load(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        TextFile("folder.csv").load(tmp_path)


def test_test_file_has_no_class_of_its_own(tmp_path):
    write(tmp_path / "train.csv", GOOD)
    write(tmp_path / "test.csv", "text,label\nq,a\nr,bb\n")
    with pytest.raises(UserError, match=r"test\.csv:3: class 'bb' is not in .*train\.csv"):
        TextFile("train.csv", "test.csv").load(tmp_path)


# -- splits ----------------------------------------------------------------------------------------
def test_stratified_split_takes_the_share_of_every_class():
    labels = torch.tensor([0] * 100 + [1] * 10 + [2] * 2 + [3])
    kept, held = stratified_split(labels, 0.2, "key")
    assert torch.bincount(labels[held], minlength=4).tolist() == [20, 2, 1, 0]
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(113))
    assert torch.equal(stratified_split(labels, 0.2, "key")[1], held)
    assert not torch.equal(stratified_split(labels, 0.2, "other")[1], held)


def test_split_source_keeps_texts_with_their_targets():
    source = TextSource(
        [str(i) for i in range(20)], {"label": torch.arange(20) % 2}, {"label": ["even", "odd"]}
    )
    splits = split_source(source, 0.3, "x")
    for part in (splits.train, splits.test):
        assert [int(text) % 2 for text in part.texts] == part.targets["label"].tolist()


# -- published sets --------------------------------------------------------------------------------
PUBLISHED = [
    ("CLINC150", CLINC150(), (15000, 4500, 3000)),
    ("CLINC150", CLINC150("small"), (7500, 4500, 3000)),
    ("CLINC150", CLINC150("imbalanced"), (10525, 4500, 3000)),
    ("CLINC150", CLINC150("oos_plus", out_of_scope=True), (15250, 5500, 3100)),
    ("TREC", TREC(), (5452, 500, None)),
    ("TREC", TREC("fine"), (5452, 500, None)),
    ("TREC", TREC("both"), (5452, 500, None)),
    ("SST", SST(), (6920, 1821, 872)),
    ("SST", SST("fine"), (8544, 2210, 1101)),
    ("ag_news_small", AGNews(), (4000, 4000, None)),
    ("ag_news_small", AGNews("unbalanced"), (5000, 4000, None)),
    ("ag_news_csv_testonly", AGNews("official"), (6080, 1520, None)),
    ("Banking77", Banking77(), (10003, 3080, None)),
]


@pytest.mark.parametrize(("folder", "loader", "sizes"), PUBLISHED)
def test_published_sizes_and_classes(folder, loader, sizes):
    splits = loader.load(real(folder))
    assert (len(splits.train), len(splits.test), splits.val and len(splits.val)) == sizes
    info = loader.info()
    assert info.kind == "text" and info.train_size in (None, sizes[0])
    assert {task: len(names) for task, names in splits.train.classes.items()} == info.tasks
    for task, count in info.tasks.items():
        assert torch.bincount(splits.train.targets[task], minlength=count).min() >= 1
    assert loader.load(DATA / folder).train.texts == splits.train.texts


def test_ag_news_classes_are_the_official_ones():
    train = AGNews("unbalanced").load(real("ag_news_small")).train
    assert torch.bincount(train.targets["label"]).tolist() == [500, 1000, 1500, 2000]
    assert train.classes["label"] == ["World", "Sports", "Business", "Sci/Tech"]


def test_missing_folders_give_one_line(tmp_path):
    with pytest.raises(UserError, match=r"data.root=.*nowhere: no such folder"):
        TREC().load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither TREC.train nor TREC/TREC.train"):
        TREC().load(tmp_path)
    (tmp_path / "data_full.json").write_text('{"train": 3}')
    with pytest.raises(UserError, match="not CLINC150's JSON"):
        CLINC150().load(tmp_path)


def test_without_root_and_datasets_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"set data.root=FOLDER, or pip install 'roux\[hub\]'"):
        Banking77().load(None)


class Column:
    names = ("ABBR:abb", "DESC:def")


class FakePart(dict):
    features = {"fine_label": Column}  # noqa: RUF012


def library_with(load_dataset):
    """As much of the package `datasets` as is used."""
    return types.SimpleNamespace(
        load_dataset=load_dataset,
        config=types.SimpleNamespace(HF_HUB_OFFLINE=True),
        disable_progress_bars=lambda: None,
        utils=types.SimpleNamespace(
            logging=types.SimpleNamespace(set_verbosity_error=lambda: None)
        ),
    )


def test_hub_parts_become_sources(monkeypatch):
    part = FakePart(text=["what ?", "which ?", "why ?"], fine_label=[1, 0, 1])
    fake = library_with(lambda name, *config, **options: {"train": part, "test": part})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    splits = TREC().load(None)
    assert splits.train.classes == {"label": ["ABBR", "DESC"]}
    assert splits.test.targets["label"].tolist() == [1, 0, 1]


def test_hub_failure_is_one_line(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setitem(sys.modules, "datasets", library_with(fail))
    with pytest.raises(
        UserError, match=r"downloading 'CogComp/trec' failed \(no network\)"
    ) as caught:
        TREC().load(None)
    assert "\n" not in str(caught.value)
