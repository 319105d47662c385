"""Every encoder of the installed transformers that can be built tiny, and one model of every family
of timm: it runs as it should, or is refused with a reason in the plan already."""

import re

import pytest
import torch

from tests.support.encoder_survey import (
    Row,
    difference,
    families,
    page_of_images,
    page_of_texts,
    survey,
    survey_image,
    surveyed,
)
from tests.support.tiny_encoders import encoder_types, texts

# they give all later tokens the last position
CLAMPED = {"prophetnet", "tapas"}
SAMPLE = ["bart", "bert", "canine", "esm", "gpt2", "marian", "xlnet"]


def check(kind: str) -> None:
    (row,) = surveyed([kind], survey)
    if row.network is None:
        assert row.reason
        return
    network = row.network
    assert difference(network) <= 1e-5
    limit = network.max_length
    if limit is None:
        return
    assert network.features(network.embed(texts((limit,)))).isfinite().all()
    if kind in CLAMPED:
        return
    longer = network.embed(texts((limit + 1,)))
    with pytest.raises((IndexError, RuntimeError, ValueError)), torch.no_grad():
        network.backbone(inputs_embeds=longer.x, attention_mask=longer.mask.long())


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_sample_of_encoders(kind: str) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", encoder_types())
def test_encoders(kind: str) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(families().values()))
def test_families_of_image_networks(name: str) -> None:
    (row,) = surveyed([name], survey_image)
    assert row.status == "runs" or row.reason


def test_the_page_names_every_model_and_every_reason() -> None:
    written = page_of_texts(surveyed(["bert", "esm", "gpt2"], survey))
    assert "| `bert` | runs | by its configuration | `mean`, `cls`, `last` | 1 | 0 |" in written
    assert "| `gpt2` | runs | by its configuration | `mean`, `last` | 1 | 0 |" in written
    assert "| `esm` | refused: EsmModel leaves out positions" in written
    written = page_of_images(surveyed(["levit_128", "test_vit"], survey_image))
    assert re.search(r"\| `levit_128` \| runs \| (refused: .+|\d+ layers) \|\n", written)
    assert re.search(r"\| `test_vit` \| runs \| \d+ layers \|\n", written)
    written = page_of_images([Row("odd", "refused", "no pooled features")])
    assert "| `odd` | refused: no pooled features | |" in written
