"""Omniglot: handwritten characters of fifty alphabets, each drawn by twenty people. Lake,
Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic program induction,
Science 350, 2015."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.standard import (
    brief_patience,
    cache_folder,
    candidates,
    existing_folder,
    last_line,
    pixels_of,
)
from foundation.errors import UserError
from foundation.randomness import generator

PARTS = ("images_background", "images_evaluation")
ALPHABETS = 30  # of the background part
Picture = tuple[str, bytes]  # ALPHABET/CHARACTER/NAME.png and its content


def pictures(place: Path) -> Iterator[Picture]:
    """The picture files of a part: of its folder, or of its archive PART.tar.gz in the order of the
    archive."""
    if place.is_dir():
        for path in place.glob("*/*/*.png"):
            yield "/".join(path.parts[-3:]), path.read_bytes()
        return
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".png") else None
                if file is not None:
                    yield "/".join(member.name.split("/")[-3:]), file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{place}: cannot be read ({last_line(error)}); fetch it again") from None


def decoded(file: bytes, size: int) -> np.ndarray:
    """uint8 [size, size]: grey values from strokes of one bit, each the mean of what it covers."""
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BOX))


def read(place: Path, size: int) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [N, size, size] and the character of each, ALPHABET/CHARACTER."""
    try:
        found = sorted(
            ((name, decoded(file, size)) for name, file in pictures(place)),
            key=lambda entry: entry[0],
        )
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{place}: holds a picture that cannot be read ({last_line(error)}); fetch it again"
        ) from None
    if not found:
        raise UserError(f"{place}: holds no pictures; expected ALPHABET/CHARACTER/*.png")
    return np.stack([picture for _, picture in found]), [
        name.rpartition("/")[0] for name, _ in found
    ]


def source_of(images: np.ndarray, names: list[str], keep: set[str] | None = None) -> ArraySource:
    """The samples whose alphabet is in `keep`, all where that is None; their characters are the
    classes."""
    kept = [i for i, name in enumerate(names) if keep is None or name.split("/")[0] in keep]
    classes = sorted({names[i] for i in kept})
    number = {name: c for c, name in enumerate(classes)}
    labels = torch.tensor([number[names[i]] for i in kept], dtype=torch.int64)
    return ArraySource(pixels_of(images[kept]), {"label": labels}, {"label": classes})


class Omniglot:
    """Characters as classes, twenty pictures each; training, validation and test have different
    ones.

    Training and validation are the 30 alphabets of `images_background`, the test part is
    `images_evaluation`. `root`: the folder (or its parent) with both, as archives `.tar.gz` or
    extracted; downloaded there by torchvision where it has neither.

    size: side of the picture; the strokes are scaled down from 105 pixels by averaging.
    val_alphabets: alphabets of the background part that are held out for validation, always the
    same ones; 0 lets `data.val_fraction` hold out pictures of the characters trained on.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=8, le=105)] = 28,
        val_alphabets: Annotated[int, Field(ge=0, lt=ALPHABETS)] = 5,
    ):
        self.size = size
        self.val_alphabets = val_alphabets

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": None}, (1, self.size, self.size), disjoint=True)

    def load(self, root: str | Path | None = None) -> Splits:
        folder = existing_folder(root) if root is not None else cache_folder()
        places = find(folder) or fetch(folder, root)
        images, names = read(places[0], self.size)
        alphabets = sorted({name.split("/")[0] for name in names})
        drawn = torch.randperm(
            len(alphabets), generator=generator("omniglot", "validation")
        ).tolist()
        held = {alphabets[i] for i in drawn[: self.val_alphabets]}
        return Splits(
            train=source_of(images, names, set(alphabets) - held),
            test=source_of(*read(places[1], self.size)),
            val=source_of(images, names, held) if held else None,
        )


def find(folder: Path) -> list[Path] | None:
    """Where both parts lie, as folders or archives; None where one is missing."""
    for place in (
        candidates(folder, ("Omniglot", "omniglot", "omniglot-py")) if folder.is_dir() else ()
    ):
        found = [
            next((p for p in (place / part, place / f"{part}.tar.gz") if p.exists()), None)
            for part in PARTS
        ]
        if None not in found:
            return [path for path in found if path is not None]
    return None


def fetch(folder: Path, root: str | Path | None) -> list[Path]:
    """Let torchvision download both parts. Raises UserError where there is no network."""
    import torchvision  # seconds of import, only where it is needed

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with brief_patience():
            for background in (True, False):
                torchvision.datasets.Omniglot(folder, background=background, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"data.root={root or f'null ({folder})'}: no Omniglot there ({PARTS[0]} and "
            f"{PARTS[1]}, as folders or "
            f".tar.gz), and downloading it failed ({last_line(error)}); set data.root to a folder "
            "that holds it"
        ) from None
    found = find(folder)
    if found is None:
        raise UserError(
            f"data.root={folder}: the download holds no {PARTS[0]} and {PARTS[1]}; set data.root "
            "instead"
        )
    return found
