"""Files of the peft library: what is read, and what is refused. That outputs are equal is in
`tests/oracles`."""

import json

import pytest
import torch

from foundation.errors import UserError
from methods.peft.lora import LoRA
from tests.support.comparison import installed
from tests.support.peft_library import BERT_TARGETS, wrapped
from tests.support.small_networks import network, operate

peft = installed("peft")


def test_a_model_with_a_task_head_is_read_by_its_encoder(tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = network("bert").backbone.config
    whole = AutoModelForSequenceClassification.from_config(config)
    model = peft.get_peft_model(
        whole, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=BERT_TARGETS)
    )
    model.save_pretrained(tmp_path)
    made = operate(LoRA(rank=2, load=str(tmp_path)), network("bert"), "lora")
    theirs = (
        model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_A["default"].weight
    )
    assert torch.equal(made.deltas["lora"][0].a, theirs)


def test_what_means_something_else_is_refused(tmp_path):
    def refused(words, targets=BERT_TARGETS, name="bert", r=4, ours=None, **theirs):
        wrapped(name, targets, r=r, **theirs).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=rf"methods.lora.load=.*{words}"):
            operate(LoRA(rank=4, load=str(tmp_path), **(ours or {})), network(name), "lora")

    refused("is not plain LoRA \\(use_dora\\)", use_dora=True)
    refused("is not plain LoRA", bias="all")
    refused("has rank 2 at 'encoder.layer.0.attention.self.query', expected 4; set rank=2", r=2)
    refused("has no 'encoder.layer.0.attention.self.value'", targets=["query"])
    refused("changes layers that are not targets here: .*key", targets=["query", "key", "value"])
    refused(
        "'blocks.0.attn.qkv' has one A for all its rows; set qkv=shared",
        targets=["qkv"],
        name="vit",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="is not plain LoRA"):
        operate(LoRA(load=str(tmp_path)), network("bert"), "lora")
