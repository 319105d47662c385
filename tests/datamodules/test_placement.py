"""Sets in memory on the device: the same batches, there, as long as they fit."""

import pytest
import torch

from datamodules.source import ArraySource, Source, Splits
from datamodules.sources.text import TextSource
from datamodules.streams import Part, PlacedPart, Places
from datamodules.text.prepare import Tokenize

CPU, META = torch.device("cpu"), torch.device("meta")


def pictures(count=10):
    pixels = (
        torch.arange(count * 16, dtype=torch.int64)
        .remainder(251)
        .to(torch.uint8)
        .view(count, 1, 4, 4)
    )
    return ArraySource(pixels, {"label": torch.arange(count) % 3}, {"label": ["a", "b", "c"]})


def texts():
    words, targets = (
        ["a b c", "a", "b c d e f g h i j", "c c"],
        {"label": torch.tensor([0, 1, 1, 0])},
    )
    source = TextSource(words, targets, {"label": ["x", "y"]})
    Tokenize()(Splits(source, source))
    return source


def part_of(source):
    rows = torch.arange(len(source)).flip(0)
    return Part(source, rows, {"label": source.targets["label"][rows]}, torch.arange(len(source)))


@pytest.mark.parametrize("make", [pictures, texts])
def test_batches_are_the_same(make):
    part = part_of(make())
    placed = Places("auto", CPU, free=2**30).part(part)
    assert isinstance(placed, PlacedPart) and len(placed) == len(part)
    for positions in (torch.tensor([2, 0, 3]), torch.tensor([1])):
        mine, theirs = placed.fetch(positions), part.fetch(positions)
        assert mine["index"].equal(theirs["index"]) and mine["targets"]["label"].equal(
            theirs["targets"]["label"]
        )
        if isinstance(mine["data"], dict):
            assert mine["data"].pop("words").equal(theirs["data"].pop("words"))
            assert mine["data"] == theirs["data"]
        else:
            assert mine["data"].equal(theirs["data"])


@pytest.mark.parametrize("make", [pictures, texts])
def test_everything_of_a_batch_is_on_the_device_and_the_part_itself_is_not(make):
    part = part_of(make())
    placed = Places("auto", META, free=2**30).part(part)
    batch = placed.fetch(torch.tensor([2, 0]))
    data = batch["data"]["words"] if isinstance(batch["data"], dict) else batch["data"]
    assert {t.device for t in (data, batch["index"], *batch["targets"].values())} == {META}
    assert placed.rows.device == CPU and part.fetch(torch.tensor([0]))["index"].device == CPU


def test_sources_lie_there_while_they_fit():
    first, second, small = (part_of(pictures(count)) for count in (100, 90, 10))
    places = Places(
        "auto", META, free=4 * 2000
    )  # a quarter: 2000 bytes; the sets have 1600, 1440, 160
    assert isinstance(places.part(first), PlacedPart)
    assert places.part(second) is second
    assert isinstance(places.part(small), PlacedPart) and places.left == 240
    again = places.part(part_of(first.source))
    assert again.source is places.part(first).source  # one copy for all parts of a source
    assert Places(0.0, META, free=2**30).part(small) is small
    assert isinstance(Places(1e-6, META, free=2**30).part(small), PlacedPart)
    assert Places(1.0, META, free=100).part(small) is small


def test_a_set_that_is_read_from_files_stays_where_it_is():
    class Files(Source):
        targets, classes = {"label": torch.zeros(3, dtype=torch.int64)}, {"label": ["x"]}

        def __len__(self):
            return 3

    part = part_of(Files())
    assert Places("auto", META, free=2**40).part(part) is part
