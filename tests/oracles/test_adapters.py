"""Adapters, LoRA, prefixes and their mixtures against golden tensors of the adapters package
(`golden/make_adapters.py`), which needs a transformers of its own: last hidden states of a padded
batch, and their gradients by all that the method has added."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

from methods.peft.adapter import Adapter
from methods.peft.adapter_fusion import AdapterFusion, distance_from_identity
from methods.peft.lora import LoRA
from methods.peft.mam_adapter import MAMAdapter
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.unipelt import UniPELT
from recipes.networks.text import TextNetwork
from tests.support.small_networks import operate, text_network

FILE = Path(__file__).parent / "golden" / "adapters.safetensors"
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
WIDTH = SIZE["hidden_size"]
NAMES = {"down.weight": "adapter_down.0.weight", "down.bias": "adapter_down.0.bias"}
NAMES |= {"up.weight": "adapter_up.weight", "up.bias": "adapter_up.bias"}


@cache
def golden() -> dict[str, Tensor]:
    return load_file(FILE)


def under(prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in golden().items()
        if name.startswith(prefix)
    }


def bert() -> TextNetwork:
    """The backbone of the golden tensors."""
    model = BertModel(
        BertConfig(vocab_size=60, max_position_embeddings=16, **SIZE), add_pooling_layer=False
    )
    model.load_state_dict(under("backbone/"), strict=False)
    missing = model.state_dict().keys() - under("backbone/").keys()
    assert all(name.startswith("embeddings.") and name.endswith("_ids") for name in missing)
    return text_network(model, {"label": 2})


def hidden_states(made: TextNetwork) -> Tensor:
    made.eval()
    return made.backbone(
        input_ids=golden()["ids"], attention_mask=golden()["mask"]
    ).last_hidden_state


def compare(kind: str, made: TextNetwork, roles: dict[str, Tensor]) -> None:
    """roles: our parameters under the package's names. They take its weights, and then all states
    of real tokens and all gradients are equal."""
    assert roles.keys() == under(f"{kind}/weight/").keys()
    with torch.no_grad():
        for name, parameter in roles.items():
            parameter.copy_(golden()[f"{kind}/weight/{name}"].view_as(parameter))
    real = golden()["mask"].bool()
    expected, found = golden()[f"{kind}/output"][real], hidden_states(made)[real]
    assert float((expected - golden()["plain/output"][real]).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    value = (torch.linspace(-1, 1, found.numel()).view_as(found) * found).sum()
    for name, gradient in zip(roles, torch.autograd.grad(value, list(roles.values())), strict=True):
        yours = golden()[f"{kind}/gradient/{name}"].view_as(gradient)
        assert bool((yours != 0).any())
        torch.testing.assert_close(gradient, yours, atol=1e-4, rtol=1e-4)


def test_the_plain_backbone():
    """The two versions of transformers compute the same network."""
    with torch.no_grad():
        torch.testing.assert_close(
            hidden_states(bert()), golden()["plain/output"], atol=1e-5, rtol=1e-5
        )


def adapters(found: Any) -> dict[str, Tensor]:
    roles: dict[str, Tensor] = {}
    for adapter in found:
        place = adapter.site.removesuffix(".dense")
        for name, parameter in adapter.named_parameters():
            theirs = NAMES.get(name, name.replace("gate.linear", "gate"))
            roles[f"{place}.{theirs}"] = parameter
    return roles


def factors(found: Any) -> dict[str, Tensor]:
    roles: dict[str, Tensor] = {}
    for delta in found:
        roles |= {f"{delta.site}.lora_A": delta.a, f"{delta.site}.lora_B": delta.b}
        for name, parameter in delta.named_parameters():
            if "gate" in name:
                roles[f"{delta.site}.{name.replace('gate.linear', 'gate')}"] = parameter
    return roles


def rows(prefix: Any) -> dict[str, Tensor]:
    if hasattr(prefix, "table"):
        return {"self_prefix.control_trans": prefix.table}
    roles = {"self_prefix.wte.weight": prefix.embedding}
    places = {"control_trans.0": prefix.down, "control_trans.2": prefix.up}
    for place, layer in places.items():
        for name, parameter in layer.named_parameters():
            roles[f"self_prefix.{place}.{name}"] = parameter
    return roles


@pytest.mark.parametrize(
    ("variant", "activation"), [("houlsby", "silu"), ("pfeiffer", "auto"), ("parallel", "auto")]
)
def test_adapters(variant, activation):
    """Theirs of Houlsby has the swish, where the authors' has GELU."""
    made = operate(Adapter(variant, bottleneck=4, activation=activation), bert(), "adapter")
    compare(variant, made, adapters(made.deltas["adapter"]))


def test_lora():
    """On queries and values."""
    made = operate(LoRA(rank=4, alpha=12.0), bert(), "lora")
    compare("lora", made, factors(made.deltas["lora"]))


@pytest.mark.parametrize("hidden", [0, 8])
def test_prefix_tuning(hidden):
    """Rows of all layers in one, and through the network; theirs, too, shift no positions."""
    made = operate(PrefixTuning(length=3, hidden=hidden), bert(), "prefix")
    compare("prefix_mlp" if hidden else "prefix", made, rows(made.deltas["prefix"]))


def test_mam_adapter():
    made = operate(MAMAdapter(length=3, hidden=8, bottleneck=4), bert(), "mam")
    parts = made.deltas["mam"]
    compare("mam", made, adapters(parts["adapters"]) | rows(parts["prefix"]))


def test_unipelt():
    """Their gates average over padding, too."""
    method = UniPELT(bottleneck=4, length=3, hidden=8, rank=4, gate_mean="all")
    made = operate(method, bert(), "unipelt")
    parts = made.deltas["unipelt"]
    roles = adapters(parts["adapters"]) | factors(parts["lora"]) | rows(parts["prefix"])
    for layer, gate in enumerate(parts["prefix"].gates):
        place = f"encoder.layer.{layer}.attention.self.prefix_tuning.prefix_gates.it"
        roles |= {f"{place}.{name}": p for name, p in gate.linear.named_parameters()}
    compare("unipelt", made, roles)


def test_adapter_fusion():
    """Outputs, gradients of Q, K and V, and the penalty. Its keys have a bias, which has no effect:
    its gradient is zero up to rounding."""
    made = operate(AdapterFusion(["fresh"] * 3, WIDTH // 8), bert(), "fusion")
    weights = under("fusion/weight/")
    layers = list(made.deltas["fusion"])
    ours: dict[str, Tensor] = {}
    for i, layer in enumerate(layers):
        place = f"encoder.layer.{i}.output"
        for part in ("query.weight", "query.bias", "key.weight", "value.weight"):
            (name,) = (n for n in weights if n.startswith(place) and n.endswith(f".{part}"))
            ours[name] = layer.get_parameter(part)
        for adapter, run in zip(layer.adapters, ("one", "two", "three"), strict=True):
            for role, parameter in adapter.named_parameters():
                name = f"{place}.adapters.{run}.{NAMES[role]}"
                (name,) = (n for n in weights if n.endswith(name))
                with torch.no_grad():
                    parameter.copy_(weights.pop(name))
    left = weights.keys() - ours.keys()
    assert len(left) == len(layers) and all(name.endswith("key.bias") for name in left)
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(weights[name])
    real = golden()["mask"].bool()
    expected, found = golden()["fusion/output"][real], hidden_states(made)[real]
    assert float((expected - golden()["plain/output"][real]).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    value = (torch.linspace(-1, 1, found.numel()).view_as(found) * found).sum()
    gradients = torch.autograd.grad(value, list(ours.values()))
    for name, gradient in zip(ours, gradients, strict=True):
        yours = golden()[f"fusion/gradient/{name}"]
        assert bool((yours != 0).any())
        torch.testing.assert_close(gradient, yours, atol=1e-4, rtol=1e-4)
    for name in left:
        assert float(golden()[f"fusion/gradient/{name}"].abs().max()) < 1e-4
    penalty = sum(distance_from_identity(layer.value.weight.detach()) for layer in layers)
    torch.testing.assert_close(0.01 * penalty, golden()["fusion/penalty"].view(()))
