"""Models of the peft library around the small backbones, for tests of the file format and of
equality."""

import copy
from typing import Any

import torch
from torch import Tensor

from recipes.networks.network import Network
from tests.support.comparison import installed
from tests.support.small_networks import network

BERT_TARGETS = ["query", "value"]
# (network, the library's targets, its further settings, ours)
LIBRARY_LORA: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    ("bert", BERT_TARGETS, {}, {}),
    ("bert", BERT_TARGETS, {"use_rslora": True}, {"scaling": "rslora"}),
    ("distilbert", ["q_lin", "v_lin"], {}, {}),
    (
        "bert",
        r".*layer\.\d+\.(attention\.self\.(query|key|value)|.*dense)",
        {},
        {"targets": ["all_linear"]},
    ),
    ("vit", ["qkv"], {}, {"qkv": "shared"}),
    ("resnet", r"layer\d\.\d\..*(conv\d|downsample\.0)", {}, {}),
]
# (network, settings of ours that the library can read)
READ_THERE: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("bert", {"scaling": "rslora", "targets": ["attn.q", "mlp"]}),
    ("vit", {}),
    ("vit", {"qkv": "shared"}),
    ("vit", {"targets": ["attn.qkv", "mlp.in"]}),
    ("resnet", {}),
]


def wrapped(name: str, targets: Any, **settings: Any) -> Any:
    """(the library's model around the plain backbone of `network(name)`, filled with random
    factors)."""
    peft = installed("peft")
    backbone = copy.deepcopy(network(name).backbone).eval()
    torch.manual_seed(3)
    model = peft.get_peft_model(
        backbone, peft.LoraConfig(target_modules=targets, **settings)
    ).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.1)
    return model


def said(model: Any, made: Network) -> Tensor:
    """Features of the library's model for our example."""
    x, mask, _ = made.example()
    if mask is None:
        return model((x - made.mean) / made.std)
    hidden = model(inputs_embeds=x.detach(), attention_mask=mask.long()).last_hidden_state
    real = mask.unsqueeze(-1)
    return (hidden * real).sum(1) / real.sum(1)
