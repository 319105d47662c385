"""Adapters against blocks written out by hand, post-norm (BERT) and pre-norm (ViT)."""

import pytest
import torch
from transformers import AutoModel, BertConfig

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from tests.support.small_networks import counts, features, fill, network, operate, text_network

VARIANTS = ("houlsby", "pfeiffer", "parallel")
TRANSFORMERS = [
    "vit",
    "beit",
    "eva",
    "swin",
    "swinv2",
    "bert",
    "distilbert",
    "modernbert",
    "deberta",
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_transformer_starts_as_it_was_and_changes(variant, name):
    before = features(network(name))
    made = operate(Adapter(variant, bottleneck=4), network(name), "adapter")
    torch.testing.assert_close(features(made), before, atol=1e-6, rtol=0)
    fill(made, "adapter")
    assert float((features(made) - before).abs().max()) > 1e-3
    assert len(made.deltas["adapter"]) == (4 if variant == "houlsby" else 2)


def by_hand(made, variant):
    """BERT's encoder, layer by layer, with the adapters of a variant."""
    bert, adapters = made.backbone, list(made.deltas["adapter"])
    x, mask, _ = made.example()
    hidden, wide = bert.embeddings(inputs_embeds=x), mask[:, None, None, :]
    sigma = torch.nn.GELU("tanh") if variant == "houlsby" else torch.relu

    def A(adapter, z):
        inner = sigma(z @ adapter.down.weight.T + adapter.down.bias)
        return adapter.scale * (inner @ adapter.up.weight.T + adapter.up.bias)

    for i, layer in enumerate(bert.encoder.layer):
        attention, output = layer.attention.output, layer.output
        F = attention.dense.forward(layer.attention.self(hidden, wide)[0])
        first = adapters[2 * i : 2 * i + 2] if variant == "houlsby" else [adapters[i], adapters[i]]
        F = F + A(first[0], F) if variant == "houlsby" else F
        x = attention.LayerNorm(hidden + F)
        F = output.dense.forward(
            layer.intermediate.intermediate_act_fn(layer.intermediate.dense.forward(x))
        )
        norm = output.LayerNorm
        if variant == "houlsby":
            hidden = norm.forward(x + F + A(first[1], F))
        elif variant == "pfeiffer":
            hidden = norm.forward(x + F + A(first[0], norm.forward(x + F)))
        else:
            hidden = norm.forward(x + F + A(first[0], x))
    real = mask.unsqueeze(-1)
    return (hidden * real).sum(1) / real.sum(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bert_by_hand(variant):
    made = operate(Adapter(variant, bottleneck=4), network("bert"), "adapter")
    fill(made, "adapter")
    said = features(made)
    made.eval()
    with torch.no_grad():
        torch.testing.assert_close(by_hand(made, variant), said, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vit_by_hand(variant):
    made = operate(Adapter(variant, bottleneck=4, activation="silu"), network("vit"), "adapter")
    fill(made, "adapter")
    said = features(made)
    made.eval()
    vit, adapters, plain = (
        made.backbone,
        list(made.deltas["adapter"]),
        network("vit").backbone.eval(),
    )

    def A(adapter, z):
        return adapter.scale * adapter.up(torch.nn.functional.silu(adapter.down(z)))

    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed((made.example().x - made.mean) / made.std))
        for i, block in enumerate(plain.blocks):
            one, two = adapters[2 * i : 2 * i + 2] if variant == "houlsby" else (adapters[i],) * 2
            F = block.attn(block.norm1(x))
            x = x + F + (A(one, F) if variant == "houlsby" else 0)
            normed = block.norm2(x)
            F = block.mlp(normed)
            if variant != "pfeiffer":
                F = F + A(two, F if variant == "houlsby" else normed)
            x = x + F
            x = x + A(one, x) if variant == "pfeiffer" else x
        expected = vit.forward_head(vit.norm(x))
    torch.testing.assert_close(said, expected, atol=1e-6, rtol=1e-5)


def test_the_scale_of_the_parallel_form_is_the_papers():
    """s = 4 for parallel adapters (He et al.), 1 for the others, unless it is given."""
    assert {variant: Adapter(variant).scale for variant in VARIANTS} == {
        "houlsby": 1.0,
        "pfeiffer": 1.0,
        "parallel": 4.0,
    }
    made = operate(Adapter("parallel", scale=0.5), network("bert"), "adapter")
    assert all(adapter.scale == 0.5 for adapter in made.deltas["adapter"])


def test_a_linear_houlsby_adapter_is_another_output_layer():
    """σ = id: W_o ← (I + sUD) W_o, b likewise."""
    made = operate(
        Adapter("houlsby", 4, 0.5, "identity", train_norms=False), network("vit"), "adapter"
    )
    fill(made, "adapter")
    plain = network("vit")
    with torch.no_grad():
        layers = [
            layer for block in plain.backbone.blocks for layer in (block.attn.proj, block.mlp.fc2)
        ]
        for layer, adapter in zip(layers, made.deltas["adapter"], strict=True):
            change = torch.eye(32) + 0.5 * adapter.up.weight @ adapter.down.weight
            shift = 0.5 * (adapter.up.weight @ adapter.down.bias + adapter.up.bias)
            layer.weight.copy_(change @ layer.weight)
            layer.bias.copy_(change @ layer.bias + shift)
    torch.testing.assert_close(features(made), features(plain), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "size", "number"), [("houlsby", 64, 2_379_264), ("pfeiffer", 48, 894_528)]
)
def test_parameters_of_bert_base(variant, size, number):
    with torch.device("meta"):
        base = text_network(AutoModel.from_config(BertConfig()), {"label": 2})
        operate(Adapter(variant, size, train_norms=False), base, "adapter")
    assert counts(base)[0] == number


def test_norms_learn_with_houlsby_alone():
    for variant in VARIANTS:
        made = operate(Adapter(variant), network("bert"), "adapter")
        norms = {n for n, _ in made.backbone.named_parameters() if "LayerNorm" in n}
        trained = {n for n, p in made.backbone.named_parameters() if p.requires_grad}
        assert trained == (norms if variant == "houlsby" else set())


def test_the_papers_start_is_near_identity():
    made = operate(Adapter(init="houlsby"), network("bert"), "adapter")
    weights = made.deltas["adapter"][0].up.weight
    assert 0 < float(weights.detach().abs().max()) <= 0.02
    assert 0 < float((features(made) - features(network("bert"))).abs().max()) < 0.05


def test_networks_without_blocks_are_refused():
    with pytest.raises(
        UserError, match=r"adapters need transformer blocks, and DigitsNet has conv.stem \(1\)"
    ):
        operate(Adapter(), network("digits_cnn"), "adapter")
