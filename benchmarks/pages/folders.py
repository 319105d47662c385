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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

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


def main(name: str, source: str, target: str) -> None:
    read = {"usps": usps, "grocery": grocery}[name]
    for part in ("train", "test"):
        for i, (pixels, label) in enumerate(read(Path(source), part)):
            folder = Path(target) / part / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i:05d}.png")


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("usps", "grocery"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
