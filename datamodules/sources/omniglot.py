"""Omniglot: handwritten characters of fifty alphabets, each drawn by twenty people. Lake,
Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic program induction,
Science 350, 2015."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.files import check_regular, hidden
from datamodules.sources.pictures import converted
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
    """The image files of a part, from its folder or from its archive PART.tar.gz."""
    if place.is_dir():
        for path in sorted(place.glob("*/*/*.png")):
            if any(hidden(name) for name in path.parts[-3:]):
                continue
            check_regular(path)
            yield "/".join(path.parts[-3:]), path.read_bytes()
        return
    check_regular(place)
    try:
        with tarfile.open(place) as archive:
            for member in archive:
                names = member.name.split("/")[-3:]
                wanted = member.name.endswith(".png") and not any(map(hidden, names))
                file = archive.extractfile(member) if wanted else None
                if file is not None:
                    yield "/".join(names), file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{place}: cannot be read ({last_line(error)}); download it again"
        ) from None


def decoded(file: bytes, size: int) -> np.ndarray:
    """uint8 [size, size]: gray values, each the mean of the 1-bit pixels it covers."""
    with Image.open(io.BytesIO(file)) as picture:
        return np.asarray(converted(picture, "L").resize((size, size), Image.Resampling.BOX))


def read(place: Path, size: int) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [N, size, size] and the character of each, ALPHABET/CHARACTER, sorted by
    name."""
    try:
        found = [(name, decoded(file, size)) for name, file in pictures(place)]
        found.sort(key=lambda entry: entry[0])
    except UserError:
        raise
    except Exception as error:  # the decoders raise a dozen types for damaged files
        raise UserError(
            f"{place}: has a picture that cannot be read ({last_line(error)}); download it again"
        ) from None
    if not found:
        raise UserError(f"{place}: has no pictures; expected ALPHABET/CHARACTER/*.png")
    characters = [name.rpartition("/")[0] for name, _ in found]
    return np.stack([picture for _, picture in found]), characters


def source_of(images: np.ndarray, names: list[str], keep: set[str] | None = None) -> ArraySource:
    """The samples whose alphabet is in `keep` (None for all), with their characters as classes."""
    kept = [i for i, name in enumerate(names) if keep is None or name.split("/")[0] in keep]
    classes = sorted({names[i] for i in kept})
    number = {name: c for c, name in enumerate(classes)}
    labels = torch.tensor([number[names[i]] for i in kept], dtype=torch.int64)
    return ArraySource(pixels_of(images[kept]), {"label": labels}, {"label": classes})


class Omniglot:
    """Characters as classes, twenty images each; training, validation and test have disjoint
    classes.

    size: side of the image; the original of 105 pixels is scaled down by averaging.
    val_alphabets: alphabets of the background part held out for validation, the same ones in every
        run; with 0, `data.val_fraction` holds out images of the training characters.

    Training and validation are the 30 alphabets of `images_background`, the test part is
    `images_evaluation`. `root`: the folder (or its parent) with both, as archives `.tar.gz` or
    extracted; downloaded there by torchvision where it has neither.

    size: side of the picture in pixels, 8 to 105. The strokes are scaled down from 105 pixels by
        averaging.
    val_alphabets: alphabets of 30 held out for validation, 0 to 29. Always the same ones; 0 lets
        `data.val_fraction` hold out pictures of the characters trained on.
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
    """Paths of both parts, as folders or archives; None if one is missing."""
    if not folder.is_dir():
        return None
    for place in candidates(folder, ("Omniglot", "omniglot", "omniglot-py")):
        found = []
        for part in PARTS:
            paths = (place / part, place / f"{part}.tar.gz")
            found += [path for path in paths if path.exists()][:1]
        if len(found) == len(PARTS):
            return found
    return None


def fetch(folder: Path, root: str | Path | None) -> list[Path]:
    """Download both parts with torchvision. Raises UserError without network."""
    import torchvision  # takes seconds to import, so only where it is needed

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with brief_patience():
            for background in (True, False):
                torchvision.datasets.Omniglot(folder, background=background, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"data.root={root or f'null ({folder})'}: no Omniglot there ({PARTS[0]} and "
            f"{PARTS[1]}, as folders or .tar.gz), and downloading it failed ({last_line(error)}); "
            "set data.root to a folder that contains it"
        ) from None
    found = find(folder)
    if found is None:
        raise UserError(
            f"data.root={folder}: the download has no {PARTS[0]} and {PARTS[1]}; set data.root "
            "instead"
        )
    return found
