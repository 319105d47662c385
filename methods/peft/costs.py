"""Trained parameters of each method on ViT-B/16 and BERT-base, without heads: the table of
`docs/peft.md`.

    python -m methods.peft.costs

Counted on the meta device, after the same surgery as in a run.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from transformers import AutoModel, BertConfig

from foundation.errors import UserError
from methods.peft.adalora import AdaLoRA
from methods.peft.adapter import Adapter
from methods.peft.adapter_fusion import AdapterFusion
from methods.peft.bitfit import BitFit
from methods.peft.diff_pruning import DiffPruning
from methods.peft.dora import DoRA
from methods.peft.glora import GLoRA
from methods.peft.ladder_side_tuning import LadderSideTuning
from methods.peft.linear_probe import LinearProbe
from methods.peft.lora import LoRA
from methods.peft.mam_adapter import MAMAdapter
from methods.peft.p_tuning import PTuning
from methods.peft.p_tuning_v2 import PTuningV2
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prompt_tuning import PromptTuning
from methods.peft.qlora import QLoRA
from methods.peft.surgeon import PEFTMethod
from methods.peft.unipelt import UniPELT
from methods.peft.vpt import VPT
from recipes.networks import build_network
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork

ROWS: dict[str, PEFTMethod] = {
    "linear_probe": LinearProbe(),
    "bitfit": BitFit(),
    "lora": LoRA(),
    "lora, targets=[all_linear]": LoRA(targets=["all_linear"]),
    "dora": DoRA(),
    "qlora": QLoRA(),
    "adalora": AdaLoRA(),
    "glora": GLoRA(),
    "diff_pruning": DiffPruning(),
    "adapter": Adapter(),
    "adapter, variant=pfeiffer bottleneck=48": Adapter("pfeiffer", 48),
    "adapter, variant=parallel": Adapter("parallel"),
    "adapter_fusion": AdapterFusion(["fresh", "fresh", "fresh"]),
    "mam_adapter": MAMAdapter(),
    "unipelt": UniPELT(),
    "ladder_side_tuning": LadderSideTuning(),
    "prefix_tuning": PrefixTuning(),
    "prefix_tuning, hidden=512": PrefixTuning(hidden=512),
    "p_tuning_v2": PTuningV2(),
    "prompt_tuning": PromptTuning(),
    "p_tuning": PTuning(),
    "p_tuning, encoder=mlp": PTuning(encoder="mlp"),
    "vpt": VPT(),
    "vpt, mode=shallow": VPT("shallow"),
}


def vit() -> Network:
    info = SimpleNamespace(kind="image", shape=(3, 224, 224))
    return build_network(info, {"label": 2}, name="vit_base_patch16_224")


def bert() -> Network:
    encoder = AutoModel.from_config(BertConfig())
    encoder.pooler = None
    return TextNetwork(encoder, {"label": 2})


def cost(method: PEFTMethod, network: Network) -> str:
    """The number of trained parameters, and its share of the backbone's; – if the method refuses
    the network."""
    total = sum(parameter.numel() for parameter in network.backbone.parameters())
    method.key = "counted"
    try:
        method.surgery(network)
    except UserError:
        return "–"
    trained = 0
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith("heads."):
            trained += parameter.numel()
    return f"{trained:,} ({100 * trained / total:.2f} %)"


def table() -> Iterator[str]:
    yield "| method | ViT-B/16 | BERT-base |"
    yield "|---|---:|---:|"
    for name, method in ROWS.items():
        with torch.device("meta"):
            yield f"| `{name}` | {cost(method, vit())} | {cost(method, bert())} |"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
