"""The other side of `peft.py`: networks changed by the peft library, with the weights of ours
copied into them."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from methods.peft.adalora_format import write_adalora
from methods.peft.glora_format import entries, write_glora
from methods.peft.peft_format import write_peft
from recipes.networks.network import Network

Peer = Callable[[Network, Network], list[tuple[Tensor, Tensor]]]
# (ours, theirs) of equal meaning and shape, whose gradients must agree
Pairs = list[tuple[Tensor, Tensor]]


def plain(theirs: Network) -> Any:
    """Their frozen backbone, with torch's attention as the library expects it."""
    backbone: Any = theirs.backbone.requires_grad_(False)
    if theirs.kind == "text":
        backbone.set_attn_implementation("sdpa")
    return backbone


@torch.no_grad()
def copied(pairs: Pairs) -> Pairs:
    for mine, yours in pairs:
        yours.copy_(mine.view_as(yours))
    return pairs


def lora(ours: Network, theirs: Network) -> Pairs:
    """Read from the file that ours leaves; parts of a fused layer are one pair of the joint rank
    there."""
    import peft

    deltas = list(ours.deltas["lora"])
    with TemporaryDirectory() as folder:
        write_peft(Path(folder), deltas)
        model = peft.PeftModel.from_pretrained(plain(theirs), folder, is_trainable=True)
    theirs.backbone = model
    if any(delta.rows for delta in deltas):
        return []  # their B has rows which ours does not have
    return low_rank(deltas, model)


def low_rank(deltas: list[Any], model: Any) -> Pairs:
    """A and B of ours and of the library's."""
    found: Pairs = []
    for delta in deltas:
        layer = model.base_model.model.get_submodule(delta.site)
        found.append((delta.a, layer.lora_A["default"].weight))
        found.append((delta.b, layer.lora_B["default"].weight))
    return found


def dora(ours: Network, theirs: Network) -> Pairs:
    import peft

    deltas = list(ours.deltas["dora"])
    rank = len(deltas[0].a)
    sites = [delta.site for delta in deltas]
    alpha = deltas[0].scale * rank
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=sites, use_dora=True)
    model = peft.get_peft_model(plain(theirs), config)
    theirs.backbone = model
    found = low_rank(deltas, model)
    for delta in deltas:
        layer: Any = model.base_model.model.get_submodule(delta.site)
        found.append((delta.m, layer.lora_magnitude_vector["default"].weight))
    return copied(found)


def adalora(ours: Network, theirs: Network) -> Pairs:
    """Forward and backward alone: the loss term and the pruning are left out on both sides."""
    deltas = list(ours.deltas["adalora"])
    model: Any = loaded(lambda folder: write_adalora(folder, deltas), theirs)
    found: Pairs = []
    for delta in deltas:
        layer = model.base_model.model.get_submodule(delta.site)
        for mine, letter in zip(delta.tensors(), "AEB", strict=True):
            found.append((mine, getattr(layer, f"lora_{letter}")["default"]))
    return found


def glora(ours: Network, theirs: Network) -> Pairs:
    deltas = list(ours.deltas["glora"])
    model: Any = loaded(lambda folder: write_glora(folder, deltas), theirs)
    found: Pairs = []
    for delta in deltas:
        layer = model.base_model.model.get_submodule(delta.site)
        for name in "abcde":
            for key, mine in entries(name, delta).items():
                support, _, end = key.partition(".")
                found.append((mine, getattr(getattr(layer, support)["default"], end)))
    return found


def loaded(write: Callable[[Path], None], theirs: Network) -> Any:
    """Their network with the deltas that `write` has left in a folder."""
    import peft

    with TemporaryDirectory() as folder:
        write(Path(folder))
        model = peft.PeftModel.from_pretrained(plain(theirs), folder, is_trainable=True)
    theirs.backbone = model
    return model


class WithoutPrompt(torch.nn.Module):
    """The library's model; the states of its P rows are removed, so that a head may pool."""

    def __init__(self, model: Any, length: int):
        super().__init__()
        self.model = model
        self.length = length

    def forward(self, **given: Any) -> Any:
        output = self.model(**given)
        output["last_hidden_state"] = output.last_hidden_state[:, self.length :]
        return output


def encoded_prompt(ours: Network, theirs: Network) -> Pairs:
    """Rows before the text, made by an LSTM on both sides."""
    import peft

    prompt: Any = ours.deltas["p_tuning"]
    length, width = prompt.rows.shape
    config = peft.PromptEncoderConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=length,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=width,
        encoder_num_layers=2,
    )
    model = peft.get_peft_model(plain(theirs), config)
    theirs.backbone = WithoutPrompt(model, length)
    encoder: Any = model.prompt_encoder["default"]
    found = [(prompt.rows, encoder.embedding.weight)]
    for mine, yours in (
        (prompt.encoder.lstm, encoder.lstm_head),
        (prompt.encoder.mlp, encoder.mlp_head),
    ):
        found += zip(mine.parameters(), yours.parameters(), strict=True)
    return copied(found)


def shifted_prefix(ours: Network, theirs: Network) -> Pairs:
    """Ours shifts the positions of the tokens as the library does."""
    import peft

    table: Any = ours.deltas["p_tuning_v2"].table
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=len(table))
    model = peft.get_peft_model(plain(theirs), config)
    theirs.backbone = model
    return copied([(table, model.prompt_encoder["default"].embedding.weight)])


def prefix(ours: Network, theirs: Network) -> Pairs:
    """The library shifts the positions of the tokens by the length of the prefix: their table is
    shifted to meet it."""
    import peft

    table: Any = ours.deltas["prefix_tuning"].table
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=len(table))
    backbone = plain(theirs)
    places = backbone.embeddings.position_embeddings.weight
    places.copy_(places.roll(len(table), 0))
    model = peft.get_peft_model(backbone, config)
    theirs.backbone = model
    rows = model.prompt_encoder["default"].embedding.weight
    return copied([(table, rows)])
