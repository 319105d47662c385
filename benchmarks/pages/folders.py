"""Sets that no setting was chosen on, as folders of pictures that `data=image_folder` reads.

    python benchmarks/pages/folders.py usps SOURCE TARGET
    python benchmarks/pages/folders.py grocery SOURCE TARGET

Of USPS, SOURCE holds zip.train.gz and zip.test.gz (text, 16×16 grey digits); of Grocery Store
train.jpg, test.jpg and labels.csv (sheets of 64×64).

TARGET then holds train/CLASS/NUMBER.png and test/CLASS/NUMBER.png. Grocery's classes are the 43
coarse ones.
"""

import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import numpy as np
from PIL import Image

from benchmarks.command import Command

TILE = 64


def usps(source: Path, part: str) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures with their class; a line is the digit and 256 values in [-1, 1]."""
    with gzip.open(source / f"zip.{part}.gz", "rt") as file:
        table = np.loadtxt(file, dtype=np.float32)
    pixels = ((table[:, 1:].reshape(-1, 16, 16) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    yield from zip(pixels, table[:, 0].astype(int).astype(str), strict=True)


def grocery(source: Path, part: str) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures with their coarse class; a sheet has its tiles row by row."""
    sheet = np.asarray(Image.open(source / f"{part}.jpg"))
    columns = sheet.shape[1] // TILE
    with (source / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = [row["coarse"] for row in csv.DictReader(file) if row["split"] == part]
    for i, label in enumerate(labels):
        top, left = i // columns * TILE, i % columns * TILE
        yield sheet[top : top + TILE, left : left + TILE], f"{int(label):02d}"


READERS = {"usps": usps, "grocery": grocery}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("pages/folders", __doc__)
    parser.add_argument("name", choices=list(READERS))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    for part in ("train", "test"):
        for i, (pixels, label) in enumerate(READERS[options.name](options.source, part)):
            folder = options.target / part / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i:05d}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
