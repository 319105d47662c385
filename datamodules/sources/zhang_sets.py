"""Large text sets of Zhang, Zhao, LeCun, Character-level Convolutional Networks for Text
Classification, NeurIPS 2015: Yelp, Yahoo! Answers, Amazon reviews, DBpedia. Each is a folder with
train.csv and test.csv, without a header: the class from 1, then the text in one to three fields."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from datamodules.source import DataInfo
from datamodules.sources.named import SMALL_NUMBER, Labeled, NamedText, Parts, from_hub
from datamodules.sources.tables import read_rows
from foundation.errors import UserError

POLARITY = ("negative", "positive")
STARS = ("1", "2", "3", "4", "5")
Reviews = Literal["polarity", "full"]


class ZhangSet(NamedText):
    """Base of these sets. A subclass sets the names of the classes, the training size, and where
    the hub has the set: its name, the column of the class, and those of the text."""

    file = "train.csv"
    names: Sequence[str]
    size: int
    on_hub: tuple[str, str, tuple[str, ...]]

    def info(self) -> DataInfo:
        return DataInfo("text", {"label": len(self.names)}, train_size=self.size)

    def classes(self) -> dict[str, list[str]]:
        return {"label": list(self.names)}

    def local(self, folder: Path) -> Parts:
        return {part: self.read(folder / f"{part}.csv") for part in ("train", "test")}

    def read(self, path: Path) -> Labeled:
        texts, labels = [], []
        total = len(self.names)
        for line, row in read_rows(path, "csv", header=False):
            number, *fields = row.values()
            known = SMALL_NUMBER.fullmatch(number) and 1 <= int(number) <= total
            if not (known and fields):
                problem = f"class '{number}'"
                raise UserError(f"{path}:{line}: {problem}; expected 1 to {total}, then text")
            labels.append(self.names[int(number) - 1])
            texts.append(joined(fields))
        return texts, {"label": labels}

    def hub(self) -> Parts:
        name, label, columns = self.on_hub
        fetched = from_hub(name)
        parts = {}
        for part in ("train", "test"):
            rows = zip(*(fetched[part][column] for column in columns), strict=True)
            labels = [self.names[number] for number in fetched[part][label]]
            parts[part] = ([joined(fields) for fields in rows], {"label": labels})
        return parts


def joined(fields: Sequence[str]) -> str:
    """The fields of a text as one; the files have `\\n` for a line break."""
    filled = [field.replace("\\n", " ").replace("\\", " ").strip() for field in fields]
    return " ".join(field for field in filled if field) or "-"  # some answers are empty


class Yelp(ZhangSet):
    """Reviews of Yelp, 560000 training texts with 2 classes or 650000 with 5.

    labels: `polarity` (negative, positive) or `full`, the stars 1 to 5.
    """

    def __init__(self, labels: Reviews = "polarity"):
        polar = labels == "polarity"
        self.names = POLARITY if polar else STARS
        self.size = 560000 if polar else 650000
        self.folders = (f"yelp_review_{labels}_csv", f"yelp_review_{labels}")  # type: ignore[misc]
        hub = "fancyzhx/yelp_polarity" if polar else "Yelp/yelp_review_full"
        self.on_hub = (hub, "label", ("text",))


class AmazonReviews(ZhangSet):
    """Reviews of Amazon, 3600000 training texts with 2 classes or 3000000 with 5.

    labels: `polarity` (negative, positive) or `full`, the stars 1 to 5.
    """

    def __init__(self, labels: Reviews = "polarity"):
        polar = labels == "polarity"
        self.names = POLARITY if polar else STARS
        self.size = 3600000 if polar else 3000000
        stem = f"amazon_review_{labels}"
        self.folders = (f"{stem}_csv", stem)  # type: ignore[misc]
        self.on_hub = ("fancyzhx/amazon_polarity", "label", ("title", "content"))

    def hub(self) -> Parts:
        if self.names is STARS:
            raise UserError(
                "data.source.labels=full is not on the hub; set data.root=FOLDER, or "
                "labels=polarity"
            )
        return super().hub()


class YahooAnswers(ZhangSet):
    """Topics of questions with their best answers, 10 classes, 1400000 training texts."""

    folders = ("yahoo_answers_csv", "yahoo_answers")
    names = (
        "Society & Culture",
        "Science & Mathematics",
        "Health",
        "Education & Reference",
        "Computers & Internet",
        "Sports",
        "Business & Finance",
        "Entertainment & Music",
        "Family & Relationships",
        "Politics & Government",
    )
    size = 1400000
    on_hub = (
        "community-datasets/yahoo_answers_topics",
        "topic",
        ("question_title", "question_content", "best_answer"),
    )


class DBpedia(ZhangSet):
    """Kinds of things that Wikipedia describes, 14 classes, 560000 training texts."""

    folders = ("dbpedia_csv", "dbpedia_14", "dbpedia")
    names = (
        "Company",
        "EducationalInstitution",
        "Artist",
        "Athlete",
        "OfficeHolder",
        "MeanOfTransportation",
        "Building",
        "NaturalPlace",
        "Village",
        "Animal",
        "Plant",
        "Album",
        "Film",
        "WrittenWork",
    )
    size = 560000
    on_hub = ("fancyzhx/dbpedia_14", "label", ("title", "content"))
