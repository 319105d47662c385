"""Published sets with a file for each text: IMDB and 20 Newsgroups."""

import re
from dataclasses import replace
from pathlib import Path

from datamodules.source import DataInfo, Splits
from datamodules.sources.files import entries
from datamodules.sources.named import (
    Labeled,
    NamedText,
    Parts,
    from_hub,
    hub_labels,
    set_folder,
)
from datamodules.sources.tables import read_text
from datamodules.sources.text import TextSource, joined_texts
from foundation.errors import UserError

BREAK = re.compile(r"<br\s*/?>")
SIGNATURE = re.compile(r"\n-- ?\n")
REVIEW, MESSAGE = r".*\.txt", r"[0-9]+"  # names of the files
QUOTE = re.compile(r"^(>|\||In article|.*(writes|wrote|says|said):\s*$)")


def texts_below(folder: Path, name: str, encoding: str = "utf-8") -> list[str]:
    """The content of each file of a folder whose name has a form, sorted by name.

    name: a regular expression; other files are no texts of the set.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; fetch the whole set")
    files = [path for path in entries(folder) if re.fullmatch(name, path.name)]
    if not files:
        raise UserError(f"{folder}: has no texts; fetch the whole set")
    return [read_text(path, encoding) for path in files]


class IMDB(NamedText):
    """Reviews of films, 25000 training texts, 25000 for test, 50000 more without a label.

    `root`: the folder `aclImdb` or its parent.

    unlabeled: the texts of train/unsup are samples of the unlabeled stream.

    Maas, Daly, Pham, Huang, Ng, Potts, Learning Word Vectors for Sentiment Analysis, ACL 2011.
    """

    folders = ("aclImdb", "imdb")
    file = "train/pos"
    names = ("negative", "positive")

    def __init__(self, unlabeled: bool = True):
        self.unlabeled = unlabeled

    def info(self) -> DataInfo:
        without = 50000 if self.unlabeled else 0
        return DataInfo("text", {"label": 2}, train_size=25000, unlabeled=without)

    def classes(self) -> dict[str, list[str]]:
        return {"label": list(self.names)}

    def load(self, root: str | Path | None) -> Splits:
        splits = super().load(root)
        if not self.unlabeled:
            return splits
        train = splits.train
        assert isinstance(train, TextSource)
        if root is None:
            more = list(from_hub("stanfordnlp/imdb")["unsupervised"]["text"])
        else:
            more = texts_below(set_folder(root, self.folders, self.file) / "train/unsup", REVIEW)
        return replace(splits, train=joined_texts(train, [unbroken(text) for text in more]))

    def local(self, folder: Path) -> Parts:
        return {part: self.part(folder / part) for part in ("train", "test")}

    def part(self, folder: Path) -> Labeled:
        texts, labels = [], []
        for name, short in zip(self.names, ("neg", "pos"), strict=True):
            found = texts_below(folder / short, REVIEW)
            texts += [unbroken(text) for text in found]
            labels += [name] * len(found)
        return texts, {"label": labels}

    def hub(self) -> Parts:
        fetched = from_hub("stanfordnlp/imdb")
        parts = {}
        for part in ("train", "test"):
            texts = [unbroken(text) for text in fetched[part]["text"]]
            parts[part] = (texts, {"label": hub_labels(fetched[part], "label", list(self.names))})
        return parts


def unbroken(text: str) -> str:
    """A review without the HTML of its line breaks."""
    return BREAK.sub(" ", text).strip()


class Newsgroups20(NamedText):
    """Messages of 20 newsgroups, divided by date: 11314 training texts, 7532 for test.

    `root`: the folder with 20news-bydate-train and 20news-bydate-test, or its parent.

    stripped: leave out headers, quotes and signatures, which give the newsgroup away.

    Lang, NewsWeeder: Learning to Filter Netnews, ICML 1995.
    """

    folders = ("20news-bydate", "20newsgroups", "20news_home")
    file = "20news-bydate-train/alt.atheism"

    def __init__(self, stripped: bool = True):
        self.stripped = stripped

    def info(self) -> DataInfo:
        return DataInfo("text", {"label": 20}, train_size=11314)

    def local(self, folder: Path) -> Parts:
        return {part: self.part(folder / f"20news-bydate-{part}") for part in ("train", "test")}

    def part(self, folder: Path) -> Labeled:
        texts, labels = [], []
        for group in entries(folder):
            if group.is_dir():
                found = texts_below(group, MESSAGE, "latin-1")
                texts += [self.text(message) for message in found]
                labels += [group.name] * len(found)
        return texts, {"label": labels}

    def text(self, message: str) -> str:
        return (bare(message) if self.stripped else message).strip() or "-"

    def hub(self) -> Parts:
        fetched = from_hub("SetFit/20_newsgroups")  # whose texts are stripped already
        if not self.stripped:
            raise UserError(
                "data.source.stripped=false is not on the hub; set data.root=FOLDER, or true"
            )
        return {
            part: (
                [text.strip() or "-" for text in fetched[part]["text"]],
                {"label": list(fetched[part]["label_text"])},
            )
            for part in ("train", "test")
        }


def bare(message: str) -> str:
    """A message without header, quotes and signature."""
    _, _, body = message.partition("\n\n")
    lines = [line for line in body.split("\n") if not QUOTE.match(line)]
    return SIGNATURE.split("\n".join(lines))[0]
