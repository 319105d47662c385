import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from methods.peft.lora import LoRA, LowRank, conv_low_rank, low_rank
from methods.peft.sites import Site
from methods.peft.weights import connect, merge, uncalled
from recipes.services.teacher import copy_sharing_frozen
from tests.support.small_networks import IMAGE, TEXT, counts, features, fill, network, operate


def test_worked_numbers():
    x = torch.tensor([1.0, 3.0])
    W, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, -0.5])
    A, B = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [0.0]])
    y = W @ x + b + low_rank(x, A, B, scale=4 / 1)
    torch.testing.assert_close(y, torch.tensor([-8.5, 14.5]))
    layer = nn.Linear(2, 2)
    delta = LowRank(Site("layer", "linear", layer), rank=1, scale=4.0, dropout=0.0, init="kaiming")
    with torch.no_grad():
        delta.a.copy_(A), delta.b.copy_(B)
    torch.testing.assert_close(W + delta.weight(), torch.tensor([[9.0, -6.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2}, {"padding": 0}, {"padding_mode": "reflect"}, {"dilation": 2}]
)
def test_a_convolutions_delta_is_that_of_its_weight(settings):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, **{"padding": 1, **settings})
    delta = LowRank(Site("conv", "conv.kxk", conv), rank=2, scale=0.7, dropout=0.0, init="gaussian")
    nn.init.normal_(delta.b)
    x = torch.randn(2, 3, 9, 9)
    changed = copy.deepcopy(conv)
    with torch.no_grad():
        changed.weight += delta.weight()
    torch.testing.assert_close(
        conv(x) + conv_low_rank(x, delta.a, delta.b, 0.7, conv), changed(x), atol=1e-5, rtol=0
    )


def test_initial_values():
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)
    kaiming = LowRank(Site("l", "linear", layer), 8, 1.0, 0.0, "kaiming")
    assert not kaiming.b.any()
    assert float(kaiming.a.abs().max()) == pytest.approx(1 / math.sqrt(400), rel=0.01)
    assert float(
        LowRank(Site("l", "linear", layer), 8, 1.0, 0.0, "gaussian").a.std()
    ) == pytest.approx(1 / 8, rel=0.05)


def test_scale():
    assert LoRA(rank=4, alpha=8.0).scale == 2.0
    assert LoRA(rank=4, alpha=8.0, scaling="rslora").scale == 4.0


@pytest.mark.parametrize("name", [*IMAGE, *TEXT])
def test_every_network_starts_as_it_was_changes_with_the_deltas_and_merges(name):
    """Swin-V2, BEiT and EVA read the weight of their fused layer: a hook would be idle, and LoRA is
    alive all the same."""
    before = features(network(name))
    made = operate(LoRA(rank=4), network(name), "lora")
    torch.testing.assert_close(features(made), before, atol=1e-6, rtol=0)
    fill(made, "lora")
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    names = [n for n, _ in made.named_parameters() if "lora" not in n]
    restore = merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    plain = network(name)
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in made.modules()] == [type(m) for m in plain.modules()]
    restore()
    assert torch.equal(features(made), changed)
    assert [n for n, _ in made.named_parameters() if "lora" not in n] == names
    trained = {n for n, p in made.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in made.named_parameters() if n.startswith(("deltas.", "heads."))}


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva"])
def test_networks_that_never_call_their_fused_layer(name):
    """The fact the parametrised form rests on; where a library's hook or wrapper trains nothing in
    silence."""
    made = network(name)
    fused = [module for n, module in made.backbone.named_modules() if n.endswith("attn.qkv")]
    assert uncalled(made, fused) == set(fused)
    operate(LoRA(), made, "lora")
    assert sum("parametrizations" in n for n, _ in made.named_parameters()) == len(fused)


def test_the_fast_path_of_torch_in_evaluation_would_miss_a_wrapped_layer():
    """A hook turns that path off, so a delta is there in evaluation as well."""

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2)).mean(1)

    from recipes.networks.image import ImageNetwork

    made = ImageNetwork(
        Small(), 8, {"label": 3}, mean=[0.5] * 8, std=[1.0] * 8, input_size=(2, 2)
    ).train()
    before = features(made)
    operate(LoRA(targets=[r"layer\.linear[12]", r"layer\.self_attn\.out_proj"]), made, "lora")
    fill(made, "lora", 0.5)
    assert float((features(made) - before).abs().max()) > 1e-2


def test_parameters_of_vit_base_and_bert_base_are_counted_without_memory():
    """12 blocks, queries and values: 12 · 2 · r (d_in + d_out), in split and in shared form."""
    from types import SimpleNamespace

    from recipes.networks import build_network

    for qkv in ("split", "shared"):
        with torch.device("meta"):
            vit = build_network(
                SimpleNamespace(kind="image", shape=(3, 224, 224)),
                {"label": 10},
                name="vit_base_patch16_224",
            )
            operate(LoRA(qkv=qkv), vit, "lora")
        assert counts(vit)[0] == 294_912
        assert next(iter(vit.deltas.parameters())).is_meta


def test_shared_is_another_model_than_split():
    split, shared = (operate(LoRA(qkv=qkv), network("vit"), "lora") for qkv in ("split", "shared"))
    assert len(split.deltas["lora"]) == 4
    assert len(shared.deltas["lora"]) == 2
    assert shared.deltas["lora"][0].b.shape == (96, 8)
    three = operate(LoRA(targets=["attn.qkv"]), network("vit"), "lora")
    assert [delta.rows for delta in three.deltas["lora"][:3]] == [(0, 32), (32, 64), (64, 96)]
    fill(split, "lora")
    delta = split.deltas["lora"][0].placed()
    assert delta[:32].any()
    assert not delta[32:].any()


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (6,)])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_parts_of_one_layer_add_up_in_one_product(shape, dropout):
    """Each part alone, in its own rows; with dropout each under a mask of its own, drawn in
    order."""
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 9), torch.randn(*shape)
    rows = ((0, 3), (6, 9), None)
    deltas = [
        LowRank(Site("l", "linear", layer, part), 2, 0.5, dropout, "kaiming") for part in rows
    ]
    for delta in deltas:
        nn.init.normal_(delta.b)
    connect(deltas, layer, parametrised=False)
    torch.manual_seed(1)
    found = layer(x)
    torch.manual_seed(1)
    expected = F.linear(x, layer.weight, layer.bias)
    for delta, part in zip(deltas, rows, strict=True):
        expected[..., slice(*part or (0, 9))] += delta(x, layer)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert len(layer._forward_hooks) == 1


def test_a_delta_in_another_precision_than_its_layer_s_output_is_added_in_that_of_the_output():
    layer = nn.Linear(6, 4)
    delta = LowRank(Site("l", "linear", layer), 2, 0.5, 0.0, "kaiming")
    nn.init.normal_(delta.b)
    x, output = torch.randn(3, 6), torch.randn(3, 4).to(torch.bfloat16)
    found = LowRank.added([delta], layer, x, output)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, output + delta(x, layer).to(torch.bfloat16))


def test_an_unknown_layout_of_fused_rows_is_refused_and_shared_works():
    backbone = timm.create_model("maxvit_nano_rw_256", num_classes=0, pretrained=False, img_size=64)
    from recipes.networks.image import ImageNetwork

    sizes = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": (64, 64)}
    made = ImageNetwork(backbone, backbone.num_features, {"label": 2}, **sizes)
    with pytest.raises(
        UserError, match=r"unknown which rows of '.*attn.qkv' make the 'attn.q' .* set qkv=shared"
    ):
        next(LoRA().sites(made))
    assert next(LoRA(qkv="shared").sites(made)).rows is None


def test_full_rank_can_be_any_change():
    torch.manual_seed(0)
    layer, wanted = nn.Linear(4, 3), torch.randn(3, 4)
    delta = LowRank(Site("l", "linear", layer), 3, 2.0, 0.0, "kaiming")
    with torch.no_grad():
        delta.a.copy_(wanted / 2), delta.b.copy_(torch.eye(3))
    torch.testing.assert_close(delta.weight(), wanted)


def test_dropout_acts_in_training_alone():
    made = operate(LoRA(dropout=0.5), network("digits_cnn"), "lora")
    fill(made, "lora")
    example = made.example()
    assert torch.equal(features(made), features(made))
    assert not torch.equal(made.features(example), made.features(example))


def test_batch_normalisation_of_a_frozen_backbone_keeps_its_statistics():
    made = operate(LoRA(), network("resnet"), "lora")
    made.train()
    before = {n: b.clone() for n, b in made.named_buffers()}
    made(made.example())
    assert all(torch.equal(b, before[n]) for n, b in made.named_buffers())
    assert made.training
    assert not made.batch_statistics


def test_an_averaged_copy_shares_the_backbone_and_has_deltas_of_its_own():
    for name in ("vit", "swinv2"):
        made = operate(LoRA(), network(name), "lora")
        twin = copy_sharing_frozen(made)
        own = dict(made.named_parameters())
        assert all((own[n] is p) == (not own[n].requires_grad) for n, p in twin.named_parameters())
        fill(made, "lora")
        assert not torch.equal(features(made), features(twin))
        with torch.no_grad():
            for mine, yours in zip(twin.parameters(), made.parameters(), strict=True):
                mine.copy_(yours)
        assert torch.equal(features(made), features(twin))
        twin.train()
        assert [m.training for m in twin.modules()] == [m.training for m in made.modules()]


def test_targets_without_a_low_rank_are_refused():
    with pytest.raises(UserError, match=r"'stages.0.blocks.0.conv_dw' is a grouped convolution"):
        operate(LoRA(targets=["conv.dw"]), network("convnext"), "lora")
    with pytest.raises(
        UserError,
        match=r"methods.lora.targets: 'embeddings.word_embeddings' is neither a linear layer",
    ):
        operate(LoRA(targets=["embed"]), network("bert"), "lora")


def test_a_frozen_zero_after_the_delta_is_refused():
    """A fresh Swin-V2 multiplies every block's output by zero: frozen, it stays so."""
    from types import SimpleNamespace

    from recipes.networks import build_network

    model, shape, options = IMAGE["swinv2"]
    fresh = build_network(
        SimpleNamespace(kind="image", shape=shape), {"label": 5}, name=model, options=options
    )
    with pytest.raises(
        UserError,
        match=r"'deltas.lora.0.a' has no effect in SwinTransformerV2: a frozen layer after",
    ):
        operate(LoRA(), fresh, "lora")
