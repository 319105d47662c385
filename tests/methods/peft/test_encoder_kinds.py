"""The methods on encoders with unusual layers: `Conv1D`, grouped queries, no attention at all."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from methods.peft.bitfit import BitFit
from methods.peft.dora import DoRA
from methods.peft.lora import LoRA
from methods.peft.peft_format import read_peft, write_peft
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prefixes import with_prefix
from methods.peft.prompt_tuning import PromptTuning
from methods.peft.sites import find_sites
from methods.peft.weights import merge
from recipes.networks import build_network
from recipes.networks.network import Network
from tests.support.small_networks import features, fill, operate, text_network
from tests.support.tiny_encoders import tiny_config

IMAGE = type("Info", (), {"kind": "image", "shape": (3, 32, 32)})()


def encoder(kind: str, **settings: Any) -> Network:
    torch.manual_seed(0)
    config = tiny_config(kind)
    for key, value in settings.items():
        setattr(config, key, value)
    return text_network(AutoModel.from_config(config), {"label": 3})


def with_linear_layers(network: Network) -> Network:
    """The same network with `nn.Linear` in place of every `Conv1D`."""
    twin = copy.deepcopy(network)
    for parent in list(twin.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, Conv1D):
                layer = nn.Linear(*module.weight.shape)
                layer.weight.data = module.weight.data.t().clone()
                layer.bias.data = module.bias.data.clone()
                setattr(parent, name, layer)
    return twin


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
@pytest.mark.parametrize("method", [LoRA, DoRA])
@pytest.mark.parametrize("settings", [{}, {"targets": ["attn", "mlp"]}, {"qkv": "shared"}])
def test_conv1d_is_a_linear_layer(kind: str, method: type, settings: dict) -> None:
    network = encoder(kind)
    twin = operate(method(**settings), with_linear_layers(network), "delta")
    network = operate(method(**settings), network, "delta")
    fill(network, "delta")
    fill(twin, "delta")
    assert network.deltas["delta"].state_dict().keys() == twin.deltas["delta"].state_dict().keys()
    changed = features(network)
    torch.testing.assert_close(changed, features(twin), atol=1e-5, rtol=1e-5)
    merge(network, "delta")
    torch.testing.assert_close(features(network), changed, atol=1e-5, rtol=1e-5)


def test_conv1d_in_the_format_of_the_peft_library(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft")
    network = encoder("gpt2")
    plain = copy.deepcopy(network.backbone)
    method = LoRA(targets=["attn.out", "mlp"])
    operate(method, network, "lora")
    fill(network, "lora")
    write_peft(tmp_path, method.deltas(network))
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    example = network.example()
    mask = example.mask.long()
    with torch.no_grad():
        network.eval()
        ours = network.backbone(inputs_embeds=example.x, attention_mask=mask).last_hidden_state
        hidden = theirs(inputs_embeds=example.x, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours[0], hidden[0], atol=1e-5, rtol=1e-5)
    before = features(network)
    fill(network, "lora", std=0.2)
    read_peft(tmp_path, method.deltas(network), "transformer", "methods.lora.load")
    torch.testing.assert_close(features(network), before)


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("bloom", {"attn.qkv", "attn.out", "mlp.in", "mlp.out"}),
        ("ctrl", {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out"}),
        ("falcon", {"attn.qkv", "attn.out", "mlp.in", "mlp.out"}),
        ("gpt2", {"attn.qkv", "attn.out", "mlp.in", "mlp.out"}),
        ("gpt_neo", {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out"}),
        ("gpt_neox", {"attn.qkv", "attn.out", "mlp.in", "mlp.out"}),
        ("gptj", {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out"}),
        ("openai-gpt", {"attn.qkv", "attn.out", "mlp.in", "mlp.out"}),
        ("xlm", {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out"}),
        ("xlnet", {"mlp.in", "mlp.out"}),
    ],
)
def test_roles_under_unusual_names(kind: str, roles: set[str]) -> None:
    found = {site.role for site in find_sites(encoder(kind).backbone)}
    assert {role for role in found if role.startswith(("attn", "mlp"))} == roles


@pytest.mark.parametrize("kind", ["ctrl", "gpt2", "gptj", "openai-gpt", "opt", "xlm", "xlnet"])
def test_lora_trains_in_the_backbone(kind: str) -> None:
    network = operate(LoRA(), encoder(kind), "lora")
    assert any(p.requires_grad for name, p in network.named_parameters() if "deltas" in name)


@pytest.mark.parametrize("name", ["mixer_s32_224", "resmlp_12_224", "gmlp_ti16_224"])
def test_lora_trains_in_mixers(name: str) -> None:
    network = build_network(IMAGE, {"label": 3}, name=name)
    for parameter in network.backbone.parameters():
        nn.init.normal_(parameter, std=0.1)  # ResMLP's scales begin near zero
    operate(LoRA(), network, "lora")
    assert len(network.deltas["lora"]) >= 2


@pytest.mark.parametrize("kind", ["bloom", "falcon", "gpt_neox"])
def test_rows_in_an_unknown_order_are_refused_with_the_remedy(kind: str) -> None:
    with pytest.raises(UserError, match=r"use attn.qkv as target and set qkv=shared"):
        operate(LoRA(), encoder(kind), "lora")
    operate(LoRA(targets=["attn.qkv"], qkv="shared"), encoder(kind), "lora")


@pytest.mark.parametrize("method", [LoRA, DoRA])
def test_a_network_without_a_place_is_refused_with_the_names_there_are(method: type) -> None:
    with pytest.raises(UserError) as caught:
        operate(method(), encoder("mamba"), "lora")
    assert "methods.lora.targets: MambaModel has no attention" in str(caught.value)
    assert "in_proj" in str(caught.value)
    operate(method(targets=[".*in_proj"]), encoder("mamba"), "lora")


def test_a_method_that_attaches_nothing_is_refused() -> None:
    class Idle(LoRA):
        def attach(self, network: Network) -> None:
            pass

    with pytest.raises(
        UserError, match=r"methods\.idle: finds nothing to train in BertModel; it h"
    ):
        operate(Idle(), encoder("bert"), "idle")


def test_a_method_that_breaks_the_network_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^methods\.[\w.]+: ") as caught:
        network = build_network(IMAGE, {"label": 3}, name="visformer_tiny", options={})
        operate(LoRA(), network, "lora")
    assert "\n" not in str(caught.value)


# -- prefixes and prompts --------------------------------------------------------------------------
def test_a_prefix_for_grouped_queries_by_hand() -> None:
    """Four heads of two groups: heads 0 and 1 see the rows of group 0, heads 2 and 3 of group 1."""
    key, value = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    rows = torch.randn(6, 2, 2 * 3)
    wide, _, _ = with_prefix(key, value, None, rows)
    assert wide.shape == (2, 4, 11, 3)
    for head in range(4):
        group = head // 2
        torch.testing.assert_close(wide[1, head, :6], rows[:, 0, 3 * group : 3 * group + 3])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi", "qwen2", "qwen3"])
def test_a_prefix_in_causal_encoders(kind: str) -> None:
    """It acts, tokens still see no later ones, and padding has no influence."""
    network = encoder(kind)
    plain = features(network)
    operate(PrefixTuning(length=3), network, "prefix")
    fill(network, "prefix", std=1.0)
    assert float((features(network) - plain).abs().max()) > 1e-4
    example = network.example()
    mask = example.mask.long()

    def states(x: Tensor, mask: Tensor) -> Tensor:
        return network.eval().backbone(inputs_embeds=x, attention_mask=mask).last_hidden_state

    with torch.no_grad():
        before = states(example.x, mask)
        later = example.x.clone()
        later[0, -1] += 1
        assert torch.allclose(states(later, mask)[0, :-1], before[0, :-1], atol=1e-6)
        alone = states(example.x[:1], torch.ones_like(mask[:1]))
    torch.testing.assert_close(alone[0], before[0], atol=1e-5, rtol=1e-5)


def test_the_prefix_of_grouped_queries_is_as_wide_as_their_keys() -> None:
    network = operate(PrefixTuning(length=3), encoder("llama"), "prefix")
    assert network.deltas["prefix"].table.shape == (3, 2, 2, 2 * 8)


def test_prompts_in_xlm() -> None:
    network = operate(PromptTuning(length=4), encoder("xlm"), "prompt")
    assert network.deltas["prompt"].rows.shape == (4, 32)


def test_sampled_prompts_have_the_scale_of_the_embeddings() -> None:
    torch.manual_seed(0)
    network = encoder("marian")
    rows = PromptTuning(positions="shift").start(network)
    table = network.backbone.get_input_embeddings().weight
    closest = torch.cdist(rows, network.scale * table).amin(1)
    assert float(closest.max()) < 1e-3


# -- parameters that are never read ----------------------------------------------------------------
@pytest.mark.parametrize("kind", ["longformer", "squeezebert"])
def test_bitfit_leaves_out_biases_that_nothing_reads(kind: str) -> None:
    network = encoder(kind)
    unread = {f"backbone.{name}" for name in network.unused}
    operate(BitFit(), network, "bitfit")
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert any(name.endswith("bias") for name in unread) or kind == "squeezebert"
    assert not trained & unread


def test_adapters_in_gpt2() -> None:
    network = encoder("gpt2")
    before = features(network)
    operate(Adapter(bottleneck=4), network, "adapter")
    torch.testing.assert_close(features(network), before)
    assert len(network.deltas["adapter"]) == 4
