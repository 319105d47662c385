"""Published text sets: CLINC150, TREC, SST, AG News, Banking77.

Each is read from a local folder, `data.root`: the set's folder or its parent. Without a root, the
set is downloaded with Hugging Face `datasets`, if installed.
"""

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from datamodules.source import DataInfo, Splits
from datamodules.sources.named import (
    SMALL_NUMBER,
    Labeled,
    NamedText,
    Parts,
    from_hub,
    hub_labels,
    label_lines,
    numbered,
)
from datamodules.sources.tables import read_rows, read_text
from datamodules.sources.text import split_source
from foundation.errors import UserError


class CLINC150(NamedText):
    """Intents of queries to an assistant, 150 classes, with a validation part.

    variant: full (15000 training texts), small (7500), imbalanced (10525, 25 to 100 per class),
        oos_plus (full, with more out-of-scope texts).
    out_of_scope: adds the texts without an intent as a 151st class, `oos`.

    Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction,
    EMNLP 2019.

    variant: training texts: `full`, `small`, `imbalanced` or `oos_plus`. full 15000, small 7500,
        imbalanced 10525 with 25 to 100 a class, oos_plus as full with more out-of-scope texts.
    out_of_scope: add the queries without an intent as a 151st class, `oos`.
    """

    folders = ("CLINC150", "clinc150", "oos-eval")
    SIZES: ClassVar = {"full": 15000, "small": 7500, "imbalanced": 10525, "oos_plus": 15000}

    def __init__(
        self,
        variant: Literal["full", "small", "imbalanced", "oos_plus"] = "full",
        out_of_scope: bool = False,
    ):
        self.variant = variant
        self.out_of_scope = out_of_scope
        self.file = f"data_{variant}.json"

    def info(self) -> DataInfo:
        size = self.SIZES[self.variant]
        if self.out_of_scope:
            size += 250 if self.variant == "oos_plus" else 100
        return DataInfo("text", {"label": 150 + self.out_of_scope}, train_size=size)

    def local(self, folder: Path) -> Parts:
        path = folder / self.file
        try:
            table = json.loads(read_text(path, "utf-8"))
            parts = {}
            for part in ("train", "val", "test"):
                rows = table[part] + (table[f"oos_{part}"] if self.out_of_scope else [])
                texts = [text for text, _ in rows]
                labels = [label for _, label in rows]
                parts[part] = (texts, {"label": labels})
            return parts
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: not CLINC150's JSON ({error}); expected the file of clinc/oos-eval"
            ) from None

    def hub(self) -> Parts:
        if self.variant == "full":
            raise UserError(
                "data.source.variant=full is not on the hub; set data.root=FOLDER, or "
                "variant=oos_plus"
            )
        fetched = from_hub("clinc/clinc_oos", self.variant.removeprefix("oos_"))
        parts = {}
        for name, part in (("train", "train"), ("val", "validation"), ("test", "test")):
            labels = hub_labels(fetched[part], "intent")
            kept = [i for i, label in enumerate(labels) if self.out_of_scope or label != "oos"]
            texts = list(fetched[part]["text"])
            kept_texts = [texts[i] for i in kept]
            kept_labels = [labels[i] for i in kept]
            parts[name] = (kept_texts, {"label": kept_labels})
        return parts


class TREC(NamedText):
    """Types of questions, 5452 training and 500 test texts.

    labels: `coarse` (6 classes), `fine` (50) or `both`, two tasks of one set.

    Li and Roth, Learning Question Classifiers, COLING 2002.
    """

    folders = ("TREC", "trec")
    file = "TREC.train"

    def __init__(self, labels: Literal["coarse", "fine", "both"] = "coarse"):
        self.labels = labels

    def info(self) -> DataInfo:
        tasks = {"coarse": {"label": 6}, "fine": {"label": 50}, "both": {"coarse": 6, "fine": 50}}
        return DataInfo("text", dict(tasks[self.labels]), train_size=5452)

    def local(self, folder: Path) -> Parts:
        return {
            part: self._part(label_lines(folder / f"TREC.{part}")) for part in ("train", "test")
        }

    def hub(self) -> Parts:
        # The set needs a loading script, which new versions of `datasets` refuse; the hub has a
        # converted copy.
        fetched = from_hub("CogComp/trec", revision="refs/convert/parquet")
        parts = {}
        for part in ("train", "test"):
            fine = hub_labels(fetched[part], "fine_label")
            parts[part] = self._part(list(zip(fine, fetched[part]["text"], strict=True)))
        return parts

    def _part(self, rows: list[tuple[str, str]]) -> Labeled:
        fine = [label for label, _ in rows]
        coarse = [label.split(":")[0] for label in fine]
        choice = {
            "coarse": {"label": coarse},
            "fine": {"label": fine},
            "both": {"coarse": coarse, "fine": fine},
        }
        return [text for _, text in rows], choice[self.labels]


class SST(NamedText):
    """Stanford Sentiment Treebank, whole sentences, with a validation part. Socher et al., EMNLP
    2013.

    labels: `binary` (2 classes, 6920 training sentences) or `fine` (5 classes, 8544).
    """

    folders = ("SST", "sst", "sst2")
    NAMES: ClassVar = {
        "binary": ["negative", "positive"],
        "fine": ["very negative", "negative", "neutral", "positive", "very positive"],
    }

    def __init__(self, labels: Literal["binary", "fine"] = "binary"):
        self.labels = labels
        self.file = f"stsa.{labels}.train"

    def info(self) -> DataInfo:
        names = self.NAMES[self.labels]
        return DataInfo(
            "text", {"label": len(names)}, train_size={"binary": 6920, "fine": 8544}[self.labels]
        )

    def classes(self) -> dict[str, list[str]]:
        return {"label": self.NAMES[self.labels]}

    def local(self, folder: Path) -> Parts:
        parts = {}
        for name, part in (("train", "train"), ("val", "dev"), ("test", "test")):
            path = folder / f"stsa.{self.labels}.{part}"
            parts[name] = numbered(path, label_lines(path), self.NAMES[self.labels])
        return parts

    def hub(self) -> Parts:
        fetched = from_hub({"binary": "SetFit/sst2", "fine": "SetFit/sst5"}[self.labels])
        names = self.NAMES[self.labels]
        parts = {}
        for name, part in (("train", "train"), ("val", "validation"), ("test", "test")):
            labels = hub_labels(fetched[part], "label", names)
            parts[name] = (list(fetched[part]["text"]), {"label": labels})
        return parts


class AGNews(NamedText):
    """Topics of news, 4 classes. Zhang, Zhao, LeCun, NeurIPS 2015.

    `small` and `unbalanced` are subsets of KEAML-JLU/DeepTextClustering: 4000 training texts, or
    500, 1000, 1500 and 2000 a class, and the same 4000 for test. `official` (title and description)
    has with its train.csv the whole set (120000 and 7600), with test.csv alone that file. Without
    `data.root` only `official` can be had.

    variant: `small`, `unbalanced` or `official`.
    test_fraction: share of the test file for test, in (0, 1), where official has no training file.
    """

    NAMES: ClassVar = ["World", "Sports", "Business", "Sci/Tech"]

    def __init__(
        self,
        variant: Literal["small", "unbalanced", "official"] = "small",
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ):
        self.variant = variant
        self.test_fraction = test_fraction
        self.file = {"small": "train.csv", "unbalanced": "ub_train.csv", "official": "test.csv"}[
            variant
        ]
        subset, official = ("ag_news_small",), ("ag_news_csv", "ag_news_csv_testonly")
        self.folders = official if variant == "official" else subset  # type: ignore[misc]

    def info(self) -> DataInfo:
        size = {"small": 4000, "unbalanced": 5000, "official": None}[self.variant]
        return DataInfo("text", {"label": 4}, train_size=size)

    def classes(self) -> dict[str, list[str]]:
        return {"label": self.NAMES}

    def load(self, root: str | Path | None) -> Splits:
        splits = super().load(root)
        if len(splits.train) == 0:  # the test file alone
            return split_source(splits.test, self.test_fraction, "ag_news")  # type: ignore[arg-type]
        return splits

    def local(self, folder: Path) -> Parts:
        test = self._read(folder / "test.csv")
        train = folder / ("train.csv" if self.variant == "official" else self.file)
        if self.variant == "official" and not train.is_file():
            return {"train": ([], {"label": []}), "test": test}
        return {"train": self._read(train), "test": test}

    def _read(self, path: Path) -> Labeled:
        first = 1 if self.variant == "official" else 0  # the official files count classes from 1
        texts, labels = [], []
        for line, row in read_rows(path, "csv", header=False):
            number, *fields = row.values()
            if not (SMALL_NUMBER.fullmatch(number) and first <= int(number) < first + 4 and fields):
                raise UserError(
                    f"{path}:{line}: class '{number}'; expected {first} to {first + 3}, then text"
                )
            labels.append(self.NAMES[int(number) - first])
            texts.append(" ".join(field.replace("\\", " ") for field in fields))
        return texts, {"label": labels}

    def hub(self) -> Parts:
        if self.variant != "official":
            raise UserError(
                f"data.source.variant={self.variant} is not on the hub; set data.root=FOLDER, or "
                "official"
            )
        fetched = from_hub("fancyzhx/ag_news")
        parts = {}
        for part in ("train", "test"):
            labels = hub_labels(fetched[part], "label", self.NAMES)
            parts[part] = (list(fetched[part]["text"]), {"label": labels})
        return parts


class Banking77(NamedText):
    """Intents of questions to a bank, 77 classes, 35 to 187 texts each. Casanueva et al., NLP for
    ConvAI 2020.
    """

    folders = ("Banking77", "banking77", "banking_data")
    file = "train.csv"

    def info(self) -> DataInfo:
        return DataInfo("text", {"label": 77}, train_size=10003)

    def local(self, folder: Path) -> Parts:
        return {part: self._part(folder / f"{part}.csv") for part in ("train", "test")}

    def _part(self, path: Path) -> Labeled:
        rows = [row for _, row in read_rows(path, "csv")]
        if rows and not {"text", "category"} <= rows[0].keys():
            raise UserError(f"{path}: columns {', '.join(rows[0])}; expected text and category")
        texts = [row["text"].strip() for row in rows]
        labels = [row["category"] for row in rows]
        return texts, {"label": labels}

    def hub(self) -> Parts:
        fetched = from_hub("mteb/banking77")
        return {
            part: (list(fetched[part]["text"]), {"label": list(fetched[part]["label_text"])})
            for part in ("train", "test")
        }
