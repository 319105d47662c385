"""Encoders of many kinds: features equal to those of their own forward on ids, or a refusal."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel

from foundation.errors import UserError
from recipes.networks import build_network
from recipes.networks.encoders import make_encoder
from recipes.networks.text import TextNetwork, last_state, masked_mean
from recipes.step import Embedded
from tests.support.tiny_encoders import POSITIONS, texts, tiny_config

INFO = SimpleNamespace(kind="text", shape=None)


def built(kind: str, tmp_path: Any, **settings: Any) -> TextNetwork:
    tiny_config(kind).save_pretrained(tmp_path)
    torch.manual_seed(0)
    network = build_network(INFO, {"label": 3}, name=str(tmp_path), **settings)
    assert isinstance(network, TextNetwork)
    return network


EQUAL = (
    "bart bert blenderbot-small ctrl gpt2 led longformer marian mvp opt pegasus roberta t5 xlnet"
)


@pytest.mark.parametrize("kind", EQUAL.split())
def test_features_are_those_of_the_forward_on_ids(kind: str, tmp_path: Any) -> None:
    network = built(kind, tmp_path).eval()
    view = texts()
    with torch.no_grad():
        features = network.features(network.embed(view))
        own = network.backbone(input_ids=view["ids"], attention_mask=view["mask"].long())
    expected = masked_mean(own.last_hidden_state, view["mask"])
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert features.shape == (2, network.feature_dim)


@pytest.mark.parametrize("kind", ["marian", "pegasus"])
def test_embeddings_have_the_scale_of_the_encoder(kind: str, tmp_path: Any) -> None:
    network = built(kind, tmp_path)
    assert network.scale == pytest.approx(32**0.5)
    view = texts()
    rows = network.backbone.get_input_embeddings()(view["ids"])
    torch.testing.assert_close(network.embed(view).x, 32**0.5 * rows)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("canine", "CanineModel has no table with a row for each token"),
        ("clip_text_model", "CLIPTextModel accepts no embeddings in place of ids"),
        ("esm", "EsmModel leaves out positions and scale"),
        ("fnet", "FNetModel accepts no attention mask"),
        ("fsmt", "has no encoder that can be used alone"),
        ("ibert", "IBertModel has no table with a row for each token"),
        ("bros", "BrosModel does not run .You have to specify bbox"),
    ],
)
def test_unsuitable_encoders_are_refused_before_data_is_read(
    kind: str, reason: str, device: str, tmp_path: Any
) -> None:
    with torch.device(device), pytest.raises(UserError, match=reason) as caught:
        built(kind, tmp_path)
    assert str(caught.value).startswith(f"network.name='{tmp_path}': ")
    assert str(caught.value).endswith("; use another encoder")


def test_an_encoder_with_other_features_from_embeddings_is_refused() -> None:
    encoder = make_encoder(tiny_config("bert"))
    plain_forward = encoder.forward

    def forward(
        input_ids: Any = None, inputs_embeds: Any = None, attention_mask: Any = None
    ) -> Any:
        if input_ids is not None:
            inputs_embeds = encoder.get_input_embeddings()(input_ids).flip(-1)
        return plain_forward(inputs_embeds=inputs_embeds, attention_mask=attention_mask)

    encoder.forward = forward
    with pytest.raises(UserError, match="BertModel computes other features from embeddings"):
        TextNetwork(encoder, {"label": 2})


@pytest.mark.parametrize("kind", ["layoutlm", "squeezebert"])
def test_a_pooler_that_the_forward_calls_is_kept(kind: str, tmp_path: Any) -> None:
    network = built(kind, tmp_path)
    assert network.backbone.pooler is not None
    assert not any(p.requires_grad for p in network.backbone.pooler.parameters())


@pytest.mark.parametrize(
    "kind", ["led", "longformer", "luke", "squeezebert", "visual_bert", "xlnet", "git"]
)
def test_every_trainable_parameter_gets_a_gradient(kind: str, tmp_path: Any) -> None:
    network = built(kind, tmp_path)
    assert network.unused
    network.eval()
    network(network.embed(texts())).logits["label"].logsumexp(1).sum().backward()
    trainable = {n for n, p in network.named_parameters() if p.requires_grad}
    assert [n for n, p in network.named_parameters() if n in trainable and p.grad is None] == []
    with torch.device("meta"):
        plan = built(kind, tmp_path)
    assert {n for n, p in plan.named_parameters() if p.requires_grad} == trainable


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("bart", POSITIONS),
        ("bert", POSITIONS),
        ("ctrl", POSITIONS),
        ("gpt2", POSITIONS),
        ("gptj", POSITIONS),
        ("led", POSITIONS),
        ("longformer", POSITIONS),
        ("mbart", POSITIONS),
        ("openai-gpt", POSITIONS),
        ("opt", POSITIONS),
        ("roberta", POSITIONS - 2),
        ("bloom", None),
        ("t5", None),
    ],
)
def test_the_longest_text_is_the_last_one_that_runs(
    kind: str, limit: int | None, tmp_path: Any
) -> None:
    network = built(kind, tmp_path).eval()
    assert network.max_length == limit
    longest = texts((limit or 3 * POSITIONS,))
    assert network.features(network.embed(longest)).isfinite().all()
    if limit is None:
        return
    longer = network.embed(texts((limit + 1,)))
    with pytest.raises(UserError, match=f"has {limit + 1} tokens, .* at most {limit}"):
        network.features(longer)
    with pytest.raises((IndexError, RuntimeError)):
        network.backbone(inputs_embeds=longer.x, attention_mask=longer.mask.long())


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("kind", ["bloom", "gpt2", "llama", "marian", "opt", "t5", "xlnet"])
def test_the_first_token_stands_for_a_text_only_where_it_may(
    kind: str, device: str, tmp_path: Any
) -> None:
    with torch.device(device):
        with pytest.raises(UserError, match=r"network\.pooling=cls: .* expected last or mean"):
            built(kind, tmp_path, pooling="cls")
        assert built(kind, tmp_path, pooling="last").pooling == "last"


@pytest.mark.parametrize("kind", ["bart", "bert", "bert-generation", "xlm"])
def test_encoders_that_see_the_whole_text_may_use_the_first_token(kind: str, tmp_path: Any) -> None:
    assert built(kind, tmp_path, pooling="cls").pooling == "cls"


def test_last_state_by_loop(tmp_path: Any) -> None:
    hidden = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]])
    expected = torch.stack([hidden[0, 2], hidden[1, 4], hidden[2, 3]])
    assert torch.equal(last_state(hidden, mask), expected)
    network = built("gpt2", tmp_path, pooling="last").eval()
    view = texts((9, 5))
    alone = {"ids": view["ids"][1:, :5], "mask": view["mask"][1:, :5]}
    padded = network.features(network.embed(view))[1:]
    torch.testing.assert_close(padded, network.features(network.embed(alone)), atol=1e-5, rtol=1e-5)


def test_a_decoder_of_a_masked_model_is_causal(tmp_path: Any) -> None:
    config = tiny_config("bert")
    config.is_decoder = True
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="the first token of a decoder sees no other token"):
        build_network(INFO, {"label": 3}, name=str(tmp_path), pooling="cls")


def test_the_embedding_stays_as_it_is(tmp_path: Any) -> None:
    """CTRL multiplies what it is given in place, so a second forward would see other inputs."""
    network = built("ctrl", tmp_path).eval()
    assert network.in_place
    embedded = network.embed(texts())
    before = embedded.x.detach().clone()
    first = network.features(embedded)
    assert torch.equal(embedded.x, before)
    assert torch.equal(network.features(embedded), first)
    leaf = Embedded(before.requires_grad_(), embedded.mask)
    network.features(leaf).sum().backward()
    assert leaf.x.grad.any()


def test_no_cache_is_kept() -> None:
    network = TextNetwork(AutoModel.from_config(tiny_config("gpt2")), {"label": 2})
    output = network.backbone(inputs_embeds=network.embed(texts()).x)
    assert output.past_key_values is None
