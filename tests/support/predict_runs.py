"""Tiny runs as a user starts them, with what they said of their test part, and nothing of their
data afterwards."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from datamodules.datamodule import StreamDataModule
from recipes.engine.reported import Reported
from recipes.networks.embedding import EMBEDDING
from tests.support.command import train
from tests.support.settings import SHARED, TINY

BATCH = 64  # of evaluation in SHARED: equal batches give equal sums to the last bit
VIT = (
    "data=digits",
    "network.name=vit_tiny_patch16_224",
    "+network.options={patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, img_size: 8}",
)
BOTH = "data.source.tasks=[label,parity]"


@dataclass
class Said:
    """What a run reported of its test part: logits and embedding of the samples, in order."""

    logits: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None


@contextmanager
def listening() -> Iterator[list[tuple[dict[str, Tensor], Tensor]]]:
    """What evaluation on the test part saw, batch by batch."""
    heard: list[tuple[dict[str, Tensor], Tensor]] = []
    evaluate = Reported.evaluate

    def and_listen(reported, batch, part):
        evaluate(reported, batch, part)
        if part == "test":
            view = reported.evaluation_view(batch)
            logits = reported.predict_logits(view, index=batch["index"])
            output = reported.predict_output(reported().embed(view), index=batch["index"])
            heard.append((logits, output.logits.get(EMBEDDING, output.features)))

    with patch.object(Reported, "evaluate", and_listen):
        yield heard


def run(folder: Path, *arguments: str) -> Said:
    """Train a few steps; returns what the run reported."""
    with listening() as heard:
        train(folder, *SHARED, *arguments)
    logits = {
        task: torch.cat([values[task] for values, _ in heard])
        for task in heard[0][0]
        if task != EMBEDDING
    }
    return Said(logits, torch.cat([x for _, x in heard]))


def digits(folder: Path, *arguments: str) -> Said:
    return run(folder, *TINY["image"], *arguments)


def texts(folder: Path, file: Path, *arguments: str) -> Said:
    return run(
        folder,
        *TINY["text"],
        f"data.source.train_file={file}",
        "data.text.vocab_size=200",
        *arguments,
    )


@contextmanager
def no_data() -> Iterator[None]:
    """Whoever reads a data set fails."""

    def refuse(self, stage=None):
        raise AssertionError("the data of a run is not there any more")

    with (
        patch.object(StreamDataModule, "setup", refuse),
        patch.object(StreamDataModule, "prepare_data", refuse),
    ):
        yield


@dataclass
class Shared:
    """A run that several tests use. inputs: the texts of its test part."""

    folder: Path
    said: Said
    inputs: list[str] | None

    def copied(self, folder: Path) -> Path:
        """The same in another folder, for tests that write into it."""
        return Path(shutil.copytree(self.folder, folder))
