"""Texts of large files stay in the cache folder: the same samples, words and fingerprints as from
memory, read once, and right whatever happens to the cache."""

import json
import multiprocessing
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch

from datamodules import unlabeled
from datamodules.datamodule import StreamDataModule
from datamodules.sources import cache as cache_module
from datamodules.sources import stored_rows
from datamodules.sources.cache import HEADER, cache_folder, kept, say
from datamodules.sources.stored_texts import JoinedTexts, StoredTexts, digests_of, identity_of
from datamodules.sources.text_file import TextFile
from datamodules.sources.word_table import MappedWords, WordTable
from datamodules.text import stored_words
from datamodules.text.prepare import Tokenize
from datamodules.unlabeled import alike, shared_with_test
from datamodules.views.text import Raw, TfidfReplace
from foundation.errors import UserError
from tests.support.text_sets import byte_level, draws

WORDS = (
    "fox",
    "dog",
    "über",
    "the",
    "a",
    "quick",
    "naïve",
    "lazy",
    "3.14",
    "don't",
    "e-mail",
    "odd",
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    say.cache_clear()
    return tmp_path / "cache" / "roux"


def text_number(i: int) -> str:
    body = " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 2 + i % 9))
    return f'{body}, "{i}"\nand more' if i % 7 == 0 else f"{body} {i}"


@pytest.fixture
def file(tmp_path):
    """120 texts with quotes, line breaks and words beyond ASCII, every tenth without a label."""
    rows = [("text", "label", "kind")]
    for i in range(120):
        rows.append((text_number(i), "" if i % 10 == 9 else f"class {i % 3}", str(i % 2)))
    quoted = (",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    return path


def data(file, cache, **settings):
    columns = settings.pop("label_column", "label")
    source = TextFile(str(file), cache=cache, label_column=columns)
    text = Tokenize(tokenizer="train", vocab_size=150, max_length=12)
    made = StreamDataModule(source, batch_size=8, text=text, **settings)
    made.views = {"raw": Raw(), "weak": TfidfReplace(0.5)}
    made.request({"labeled", "unlabeled"})
    made.place(0, 1, 6)
    made.setup()
    return made


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def assert_same(one, other):
    """The same samples, order, words, views and fingerprints."""
    assert equal(one.fingerprint(), other.fingerprint())
    assert one.codec.tokenizer.backend.to_str() == other.codec.tokenizer.backend.to_str()
    for name, value in one.codec.named_buffers():
        assert torch.equal(value, other.codec.get_buffer(name)), name
    for batch, again in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
        assert equal(batch, again)
        for view in ("raw", "weak"):
            first, second = (
                each.make_view(step["unlabeled"], view, draws(56))
                for each, step in ((one, batch), (other, again))
            )
            assert equal(first, second)
    for stage in ("val", "test"):
        pairs = zip(one.evaluation_loader(stage), other.evaluation_loader(stage), strict=True)
        assert all(equal(batch, again) for batch, again in pairs)


# -- the same as from memory -----------------------------------------------------------------------
@pytest.mark.parametrize("label_column", ["label", ["label", "kind"]])
def test_a_stored_file_is_the_same_set(file, home, label_column):
    memory = data(file, "never", label_column=label_column)
    assert not home.exists()
    first = data(file, "always", label_column=label_column)
    later = data(file, "always", label_column=label_column)
    for stored in (first, later):
        assert isinstance(stored.splits.train.texts, StoredTexts)
        assert isinstance(stored.splits.train.words, MappedWords)
        assert list(stored.splits.train.texts) == memory.splits.train.texts
        assert_same(memory, stored)


def test_large_files_are_stored_and_small_ones_are_not(file, home, monkeypatch):
    assert isinstance(data(file, "auto").splits.train.texts, list) and not home.exists()
    monkeypatch.setattr(stored_rows, "LARGE", file.stat().st_size)
    assert isinstance(data(file, "auto").splits.train.texts, StoredTexts)


@pytest.mark.parametrize("ending", ["txt", "csv"])
def test_further_texts_are_stored_as_well(file, tmp_path, ending):
    more = tmp_path / f"more.{ending}"
    lines = [
        f"{text_number(i)}".replace("\n", " ").replace(",", "").replace('"', "")
        for i in range(300, 350)
    ]
    more.write_text("\n".join([*(["text"] if ending == "csv" else []), *lines, ""]))
    memory = data(file, "never", unlabeled=str(more))
    stored = data(file, "always", unlabeled=str(more))
    texts = stored.splits.train.texts
    assert isinstance(texts, JoinedTexts) and texts[-1] == lines[-1]
    assert_same(memory, stored)
    assert_same(memory, data(file, "always", unlabeled=str(more)))


def test_a_tokenizer_that_codes_the_first_word_apart(file):
    sources = {}
    for cache in ("never", "always", "later"):
        splits = TextFile(str(file), cache="always" if cache == "later" else cache).load(None)
        tokenizer = byte_level([text_number(i) for i in range(120)])
        parts = [splits.train, splits.test]
        codec = stored_words.encode_parts(parts, tokenizer, 12)
        more = codec.encode(["entirely unheard vocabulary", "a fox"])
        sources[cache] = (codec, more, [part.fetch(torch.arange(len(part))) for part in parts])
    for cache in ("always", "later"):
        codec, more, batches = sources[cache]
        assert torch.equal(more, sources["never"][1]) and codec.size == sources["never"][0].size
        assert torch.equal(codec.pieces, sources["never"][0].pieces)
        assert all(equal(*pair) for pair in zip(batches, sources["never"][2], strict=True))


def test_shared_texts_are_counted_alike(file, tmp_path):
    more = tmp_path / "more.txt"
    tested = TextFile(str(file), cache="never").load(None).test.texts
    flat = [text for text in tested if "\n" not in text]
    more.write_text("\n".join([*flat[:4], "another one", *flat[:1], ""]), encoding="utf-8")
    counts = {
        cache: shared_with_test(data(file, cache, unlabeled=str(more)).splits)
        for cache in ("never", "always")
    }
    assert counts["never"] == counts["always"] == (5, flat[0])


def test_shared_texts_of_many_blocks_are_found_where_they_are(file, monkeypatch):
    monkeypatch.setattr(unlabeled, "BLOCK", 7)
    stored = TextFile(str(file), cache="always").load(None).train.texts
    texts = list(stored)
    assert alike(stored, [texts[3], "another one", texts[40], texts[41]]) == [
        *(texts[3], texts[40], texts[41])
    ]


def test_packed_texts_are_all_of_them_with_zero_bytes_between(file):
    """Neighbors in one piece, and texts apart."""
    stored = TextFile(str(file), cache="always").load(None).train.texts
    some = stored.taken(np.array([0, 1, 2, 7, 9, 10, 5, 60, 61]))
    for texts, places in ((stored, range(3, 40)), (some, range(9)), (some, range(1, 5))):
        assert texts.packed(places) == b"\0".join(texts.raw(places))
    assert stored.packed(range(4, 4)) == b""


def test_parts_of_an_entry_share_its_maps(file):
    splits = data(file, "always").splits
    train, test = splits.train.texts, splits.test.texts
    assert train.bounds is test.bounds and train.hashes is test.hashes


def test_slices_of_stored_and_joined_texts(file):
    stored = TextFile(str(file), cache="always").load(None).train.texts
    texts = list(stored)
    few = stored.taken(torch.tensor([5, 2, 60]).numpy())
    both = JoinedTexts([stored, ["one", "two"], few])
    expected = [*texts, "one", "two", texts[5], texts[2], texts[60]]
    assert list(both) == expected and len(both) == len(expected)
    for place in (
        slice(3, 7),
        slice(None, None, 7),
        slice(2, 999, 5),
        slice(-4, None),
        slice(9, 9),
    ):
        assert both[place] == expected[place] and stored[place] == texts[place]
    assert both[-1] == texts[60] and stored[-1] == texts[-1]
    assert digests_of(both).tolist() == digests_of(expected).tolist()
    assert stored.size == sum(len(text.encode()) for text in texts)
    assert identity_of(stored) != identity_of(few)
    again = pickle.loads(pickle.dumps(both))
    assert list(again) == expected


def test_words_of_texts_without_words():
    table = WordTable(torch.empty(0, dtype=torch.int32), torch.zeros(3, dtype=torch.int64))
    assert table.take(torch.tensor([0, 1]), 8).tolist() == [[0] * 8] * 2
    flat = torch.tensor([7, 8, 9], dtype=torch.int32)
    table = WordTable(flat, torch.tensor([0, 0, 3, 3]))
    assert table.take(torch.tensor([2, 1, 0]), 2).tolist() == [[0, 0], [7, 8], [0, 0]]
    assert [block.tolist() for block in table.blocks()] == [[[0, 0, 0], [7, 8, 9], [0, 0, 0]]]


def test_a_tokenizer_is_trained_on_some_of_many_texts(file, monkeypatch):
    monkeypatch.setattr(stored_words, "TRAINED_TEXTS", 30)
    texts = TextFile(str(file), cache="never").load(None).train.texts
    assert stored_words.training_step(texts) == 4
    kept_few = stored_words.trained(texts, 150).backend.to_str()
    assert kept_few == stored_words.train_tokenizer(texts[::4], 150).backend.to_str()
    assert_same(data(file, "never"), data(file, "always"))
    monkeypatch.setattr(stored_words, "TRAINED_BYTES", 100)
    assert stored_words.training_step(texts) > 4


# -- the cache -------------------------------------------------------------------------------------
def entries(home, kind):
    return sorted(path for path in (home / kind).iterdir() if path.is_dir())


def test_a_file_is_read_once_until_it_changes(file, home, monkeypatch):
    data(file, "always")
    reads = []
    real = stored_rows.write_rows
    monkeypatch.setattr(stored_rows, "write_rows", lambda *a: reads.append(1) or real(*a))
    data(file, "always")
    assert not reads
    os.utime(file, ns=(1, time.time_ns()))
    data(file, "always")
    assert len(reads) == 1 and len(entries(home, "texts")) == 2


def test_other_settings_are_other_entries(file, home):
    data(file, "always")
    data(file, "always", label_column="kind")
    assert len(entries(home, "texts")) == 2


def damage(entry, how):
    header = entry / HEADER
    name = next(iter(json.loads(header.read_text())["files"]))
    content = (entry / name).read_bytes()
    if how == "cut":
        (entry / name).write_bytes(content[:-1])
    elif how == "changed":
        (entry / name).write_bytes(b"\xff" + content[1:])
    elif how == "gone":
        (entry / name).unlink()
    elif how == "no header":
        header.unlink()
    elif how == "list":
        header.write_text("[1]")
    else:
        header.write_text(header.read_text()[:-9])


@pytest.mark.parametrize("how", ["cut", "changed", "gone", "no header", "list", "half a header"])
def test_a_damaged_entry_is_made_again_and_said_once(file, home, how, capsys):
    memory = data(file, "never")
    data(file, "always")
    for kind in ("texts", "words", "tokenizers"):
        (entry,) = entries(home, kind)
        damage(entry, how)
    assert_same(memory, data(file, "always"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all("is damaged" in line and "made again" in line for line in lines)
    assert_same(memory, data(file, "always"))
    assert not capsys.readouterr().err


def test_an_entry_of_another_version_is_made_again_and_said_once(file, home, monkeypatch, capsys):
    data(file, "always")
    monkeypatch.setattr(cache_module, "VERSION", 2)
    assert_same(data(file, "never"), data(file, "always"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(
        "was written by another version (1, expected 2); it is made again" in line for line in lines
    )
    data(file, "always")
    assert not capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_one_line(file, tmp_path, monkeypatch, capsys):
    (tmp_path / "no folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no folder"))
    stored = data(file, "always")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "cannot be written (Not a directory)" in lines[0]
    assert isinstance(stored.splits.train.texts, list)
    assert_same(data(file, "never"), stored)


def test_a_file_that_changes_while_it_is_read_is_named(file, monkeypatch):
    real = stored_rows.write_rows

    def slow(*arguments):
        facts = real(*arguments)
        os.utime(file, ns=(1, 1))
        return facts

    monkeypatch.setattr(stored_rows, "write_rows", slow)
    with pytest.raises(UserError, match=r"texts.csv: changed while it was read"):
        data(file, "always")


def test_errors_are_those_from_memory_and_leave_nothing(file, home):
    with file.open("a") as more:
        more.write("a,b\n")
    said = []
    for cache in ("never", "always"):
        with pytest.raises(UserError) as caught:
            data(file, cache)
        said.append(str(caught.value))
    assert said[0] == said[1] and "2 fields; expected 3" in said[0]
    assert not entries(home, "texts") and not list((home / "texts").glob(".*"))


def build(number):
    """What one of several processes does: the entry is made slowly."""

    def make(folder):
        time.sleep(0.2)
        (folder / "made").write_text(str(number))
        return {"number": number}

    return kept("slow", "key", make).facts["number"]


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_build_at_once_share_one_entry(home, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(cache_module, "fcntl", None)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        numbers = pool.map(build, range(3), chunksize=1)
    (entry,) = entries(home, "slow")
    assert json.loads((entry / HEADER).read_text())["facts"]["number"] == numbers[0]
    assert len(set(numbers)) == 1 and not list((home / "slow").glob(".*"))


def test_what_a_killed_build_left_is_removed(home):
    left = home / "slow" / ".key.abc.part"
    left.mkdir(parents=True)
    assert build(1) == 1 and not left.exists()


def test_the_cache_may_be_removed_between_runs(file, home):
    memory = data(file, "never")
    data(file, "always")
    shutil.rmtree(cache_folder())
    assert_same(memory, data(file, "always"))


def test_a_large_further_set_stays_in_the_cache_folder(tmp_path, file):
    other = tmp_path / "other.csv"
    other.write_text(file.read_text(encoding="utf-8").replace("fox", "vixen"), encoding="utf-8")
    batches = {}
    for cache in ("never", "always", "always"):
        loader = TextFile(str(file), cache=cache)
        data = StreamDataModule(loader, text=Tokenize("train"), sources={"other": str(other)})
        data.place(0, 1, 2)
        data.setup()
        part = data.parts["other"]
        assert isinstance(part.source.words, MappedWords) is (cache == "always")
        found = part.fetch(torch.arange(len(part)))
        # stored words have no padding beyond the longest text that is asked for
        batches[cache] = (found["data"], found["targets"]["label"], data.fingerprint())
    one, two = batches["never"], batches["always"]
    assert torch.equal(one[0]["words"], two[0]["words"]) and torch.equal(one[1], two[1])
    assert one[2].keys() == two[2].keys() and "other/train" in one[2]
    for name, entry in one[2].items():
        assert torch.equal(entry["contents"], two[2][name]["contents"])
