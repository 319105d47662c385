"""IMDB, 20 Newsgroups and the sets of Zhang et al. from miniatures in the layout of their
authors."""

import pytest

from datamodules.sources import document_sets, zhang_sets
from datamodules.sources.document_sets import IMDB, Newsgroups20, bare
from datamodules.sources.zhang_sets import AmazonReviews, DBpedia, YahooAnswers, Yelp
from foundation.errors import UserError


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


@pytest.fixture
def films(tmp_path):
    for part in ("train", "test"):
        written(tmp_path / "aclImdb" / part / "pos" / "0_9.txt", f"Good.<br /><br />{part}")
        written(tmp_path / "aclImdb" / part / "neg" / "0_2.txt", f"Bad, {part}.")
        written(tmp_path / "aclImdb" / part / "labeledBow.feat", "9 0:1")
    written(tmp_path / "aclImdb" / "train" / "unsup" / "0_0.txt", "Who knows?")
    return tmp_path


def test_imdb_and_its_unlabeled_part(films):
    splits = IMDB().load(films)
    assert splits.train.texts == ["Bad, train.", "Good.  train", "Who knows?"]
    assert splits.train.targets["label"].tolist() == [0, 1, -1]
    assert splits.test.classes == {"label": ["negative", "positive"]}
    assert len(IMDB(unlabeled=False).load(films / "aclImdb").train) == 2
    (films / "aclImdb" / "train" / "unsup" / "0_0.txt").unlink()
    with pytest.raises(UserError, match="unsup: has no texts; fetch the whole set"):
        IMDB().load(films)
    with pytest.raises(UserError, match="has neither train/pos nor aclImdb/train/pos"):
        IMDB().load(films / "aclImdb" / "train")


MESSAGE = (
    "From: someone@example.org\nSubject: caf\xe9\n\n"
    "In article <1> other@example.org writes:\n> quoted\nMy answer.\n\n-- \nA signature\n"
)


def test_newsgroups_without_what_gives_them_away(tmp_path):
    for part, number in (("train", 49960), ("test", 53068)):
        for group in ("alt.atheism", "sci.space"):
            folder = tmp_path / f"20news-bydate-{part}" / group
            written(folder / str(number), MESSAGE, "latin-1")
    splits = Newsgroups20().load(tmp_path)
    assert splits.train.texts == ["My answer."] * 2 == splits.test.texts
    assert splits.train.classes == {"label": ["alt.atheism", "sci.space"]}
    assert splits.train.targets["label"].tolist() == [0, 1]
    assert "caf\xe9" in Newsgroups20(stripped=False).load(tmp_path).train.texts[0]
    assert bare("Header: x\n\nJohn wrote:\n| a\nb") == "b"


@pytest.mark.parametrize(
    ("loader", "folder", "rows", "texts", "names"),
    [
        (Yelp(), "yelp_review_polarity_csv", ['"1","Bad\\nplace ""X"""', '"2","Good"'],
         ['Bad place "X"', "Good"], ["negative", "positive"]),
        (Yelp("full"), "yelp_review_full_csv", ['"5","Best"'], ["Best"], ["5"]),
        (AmazonReviews(), "amazon_review_polarity_csv", ['"2","Great","Really"'],
         ["Great Really"], ["positive"]),
        (AmazonReviews("full"), "amazon_review_full_csv", ['"3","So","so"'], ["So so"], ["3"]),
        (YahooAnswers(), "yahoo_answers_csv", ['"5","Why?","","Because"', '"10","","",""'],
         ["Why? Because", "-"], ["Computers & Internet", "Politics & Government"]),
        (DBpedia(), "dbpedia_csv", ['14,"Ulysses"," A novel."'], ["Ulysses A novel."],
         ["WrittenWork"]),
    ],
)  # fmt: skip
def test_the_sets_of_zhang(tmp_path, loader, folder, rows, texts, names):
    for part in ("train", "test"):
        written(tmp_path / folder / f"{part}.csv", "\n".join(rows) + "\n")
    splits = loader.load(tmp_path)
    classes = splits.train.classes["label"]
    assert splits.train.texts == texts == splits.test.texts
    assert [classes[i] for i in splits.train.targets["label"].tolist()] == names
    assert len(classes) == loader.info().tasks["label"]
    total = len(classes)
    written(tmp_path / folder / "test.csv", f'"{total + 1}","x"\n')
    with pytest.raises(UserError, match=rf"test.csv:1: class '{total + 1}'; expected 1 to {total}"):
        loader.load(tmp_path)


def test_texts_of_the_hub_are_read_by_the_names_of_its_columns(monkeypatch):
    part = {"label": [1, 0], "title": ["a", ""], "content": ["b", "c"], "text": ["d<br />", "e"]}
    fetched = {"train": part, "test": part, "unsupervised": part}
    monkeypatch.setattr(zhang_sets, "from_hub", lambda name: fetched)
    monkeypatch.setattr(document_sets, "from_hub", lambda name: fetched)
    splits = AmazonReviews().load(None)
    assert splits.train.texts == ["a b", "c"]
    assert splits.train.targets["label"].tolist() == [1, 0]
    assert IMDB().load(None).train.texts == ["d", "e", "d", "e"]
    with pytest.raises(UserError, match="labels=full is not on the hub"):
        AmazonReviews("full").load(None)
