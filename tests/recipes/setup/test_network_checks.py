"""Faults of network and data that are found at composition, before data is read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from recipes.networks import build_network
from recipes.optimization.build import check_optimizer
from recipes.optimization.optimizers import NamedOptimizer
from recipes.setup.network_checks import check_batch_norm, check_text_length
from tests.support.tiny_encoders import tiny_config

IMAGE = SimpleNamespace(kind="image", shape=(3, 32, 32))
TEXT = SimpleNamespace(kind="text", shape=None)


def on_meta(info: Any = IMAGE, **settings: Any) -> Any:
    with torch.device("meta"):
        return build_network(info, {"label": 3}, **settings)


def test_one_sample_of_one_pixel() -> None:
    network = on_meta(name="resnet18")
    message = r"data\.batch_size=1: batch normalization refuses one"
    with pytest.raises(UserError, match=message), torch.device("meta"):
        check_batch_norm(1, network)
    check_batch_norm(2, network)
    with torch.device("meta"):
        check_batch_norm(1, on_meta(name="vit_tiny_patch16_224"))


@pytest.mark.parametrize("longest", [32, 33])
def test_texts_longer_than_the_positions(longest: int, tmp_path: Any) -> None:
    config = tiny_config("bart")
    config.max_position_embeddings = 32
    config.save_pretrained(tmp_path)
    network = on_meta(TEXT, name=str(tmp_path))
    data: Any = SimpleNamespace(text=SimpleNamespace(max_length=longest))
    if longest == 32:
        check_text_length(data, network)
        return
    with pytest.raises(UserError, match=r"data\.text\.max_length=33: .* at most 32 tokens; set"):
        check_text_length(data, network)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 10}, r"network\.options\.num_classes: is not an option"),
        ({"in_chans": 1}, r"network\.options\.in_chans: is not an option"),
        ({"features_only": True}, r"network\.options\.features_only: is not an option"),
    ],
)
def test_options_that_are_set_elsewhere(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        on_meta(name="resnet18", options=settings)


def test_auxiliary_logits() -> None:
    info = SimpleNamespace(kind="image", shape=(3, 299, 299))
    with pytest.raises(UserError, match="more than one tensor of features in training"):
        on_meta(info, name="inception_v3", options={"aux_logits": True})


@pytest.mark.skipif(torch.cuda.is_available(), reason="they need a GPU, and there is one")
@pytest.mark.parametrize("name", ["bnbadam", "bnbsgd8bit", "fusedadam", "fusedlamb"])
def test_optimizers_that_cannot_be_made_here(name: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.name={name}: cannot be made here \(CUDA"):
        check_optimizer(NamedOptimizer(name=name))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_vocabulary_of_a_checkpoint_counts_before_the_tokenizer_is_trained(
    kind: str, tmp_path: Any
) -> None:
    """A second stage: the data's upper bound is 8000, the first stage's tokenizer has 71."""
    tiny_config(kind).save_pretrained(tmp_path)
    settings: dict[str, Any] = {"name": str(tmp_path), "options": {}}
    first = build_network(TEXT, {"label": 3}, vocab_size=71, **settings)
    file = tmp_path / "last.pt"
    torch.save({f"network.{key}": value for key, value in first.state_dict().items()}, file)
    plan = on_meta(TEXT, vocab_size=8000, checkpoint=str(file), **settings)
    assert plan.vocab_size == 71
    second = build_network(TEXT, {"label": 3}, vocab_size=71, checkpoint=str(file), **settings)
    assert second.vocab_size == 71
    with pytest.raises(UserError, match="misshapen"):
        build_network(TEXT, {"label": 3}, vocab_size=72, checkpoint=str(file), **settings)
