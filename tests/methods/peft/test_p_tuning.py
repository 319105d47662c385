import copy
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from methods.peft.p_tuning import PTuning
from methods.peft.prompt_tuning import PromptTuning
from tests.support.comparison import installed, same_gradients
from tests.support.small_networks import (
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

AS_LIBRARY: dict[str, Any] = {"placement": "before", "positions": "shift"}


def library(name: str, encoder: str, hidden: int) -> Any:
    """The library's model around the plain backbone."""
    peft = installed("peft")
    config = peft.PromptEncoderConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=3,
        encoder_reparameterization_type=encoder.upper(),
        encoder_hidden_size=hidden,
        encoder_num_layers=2,
        # the library finds it neither in DistilBERT nor where words are narrower than states
        token_dim=network(name).backbone.get_input_embeddings().weight.shape[1],
        num_attention_heads=4,
        num_layers=2,
    )
    return peft.get_peft_model(copy.deepcopy(network(name).backbone).eval(), config).eval()


@pytest.mark.filterwarnings("ignore:for MLP, the argument")
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_states_and_gradients_of_the_peft_library(name, encoder):
    made = operate(
        PTuning(length=3, encoder=encoder, hidden=8, **AS_LIBRARY), network(name), "prompt"
    )
    made.eval()
    model = library(name, encoder, 8)
    prompt, theirs = made.deltas["prompt"], model.prompt_encoder["default"]
    if encoder == "lstm":
        pairs = [(prompt.rows, theirs.embedding.weight)]
        inside = ((prompt.encoder.lstm, theirs.lstm_head), (prompt.encoder.mlp, theirs.mlp_head))
    else:
        pairs = [(prompt.rows, theirs.embedding.weight)]
        inside = ((prompt.encoder, theirs.mlp_head),)
    for one, other in inside:
        pairs += zip(one.parameters(), other.parameters(), strict=True)
    with torch.no_grad():
        for mine, yours in pairs:
            yours.copy_(mine)
    x, mask, _ = made.example()
    given = {"inputs_embeds": x.detach(), "attention_mask": mask.long()}
    expected = model(**given).last_hidden_state[:, 3:]
    found = made.backbone(**given).last_hidden_state
    mine, yours = zip(*pairs, strict=True)
    same_gradients(found[mask], mine, expected[mask], yours)


@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_baked_rows_give_the_same_output(encoder):
    method = PTuning(length=3, encoder=encoder, hidden=8)
    made = operate(method, network("bert"), "prompt")
    before = features(made)
    method.merge(made)
    torch.testing.assert_close(features(made), before, atol=1e-6, rtol=0)
    assert [name for name, _ in made.deltas.named_parameters()] == ["prompt.rows"]
    assert made.deltas["prompt"].rows.shape == (3, 32)


@pytest.mark.parametrize("placement", ["after_first", "before", "behind", "split"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_padding_changes_nothing(name, placement):
    method = PTuning(length=3, placement=placement, hidden=8)
    made = operate(method, network(name), "prompt")
    fill(made, "prompt", 1.0)
    assert says_the_same_whatever_is_padding(made, network(name))


def test_places_and_positions():
    """A text of two tokens in a batch of length three; three rows, one of them behind."""
    made = operate(PTuning(length=3, placement="split", hidden=8), network("roberta"), "prompt")
    prompt = made.deltas["prompt"]
    assert prompt.behind == 1
    x = torch.arange(1.0, 4.0).view(1, 3, 1)
    wide = prompt.surrounded(x, torch.tensor([[7.0], [8.0], [9.0]]))
    assert wide.flatten().tolist() == [1, 7, 8, 2, 3, 9]
    mask = torch.tensor([[1, 1, 0]])
    assert prompt.positions(mask).tolist() == [[0, 0, 0, 1, 2, 1]]
    state = SimpleNamespace(last_hidden_state=wide)
    output = type("Output", (dict,), {"last_hidden_state": state.last_hidden_state})()
    assert prompt.after(None, (), output)["last_hidden_state"].flatten().tolist() == [1, 2, 3]


def test_the_frozen_encoder_may_train_too():
    made = operate(PTuning(length=3, hidden=8, backbone_lr=1e-5), network("bert"), "prompt")
    frozen = {n for n, p in made.named_parameters() if not p.requires_grad}
    assert frozen == {f"backbone.{name}" for name in made.unused}
    method = PTuning(backbone_lr=1e-5)
    method.key = "prompt"
    own, rest = method.parameter_groups(SimpleNamespace(network=made))
    assert own["weight_decay"] == 0 and len(own["params"]) == 1 + 16 + 4
    assert rest["lr"] == 1e-5
    backbone = {id(p) for n, p in made.backbone.named_parameters() if n not in made.unused}
    assert {id(p) for p in rest["params"]} == backbone


@pytest.mark.filterwarnings("ignore:for MLP, the argument")
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_the_librarys_folder_both_ways(encoder, tmp_path):
    method = PTuning(length=3, encoder=encoder, hidden=8, **AS_LIBRARY)
    made = operate(method, network("roberta"), "prompt")
    context = SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    method.save_artifacts(tmp_path, context)
    peft = installed("peft")
    backbone = copy.deepcopy(network("roberta").backbone)
    model = peft.PeftModel.from_pretrained(backbone, tmp_path / "prompt_peft").eval()
    x, mask, _ = made.example()
    given = {"inputs_embeds": x.detach(), "attention_mask": mask.long()}
    with torch.no_grad():
        theirs = model(**given).last_hidden_state[:, 3:]
        made.eval()
        ours = made.backbone(**given).last_hidden_state
    torch.testing.assert_close(theirs[mask], ours[mask], atol=1e-6, rtol=0)
    # theirs, read here: it holds rows only
    library("roberta", encoder, 8).save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "prompt_peft", tmp_path / "theirs"):
        operate(PromptTuning(length=3, load=str(folder), **AS_LIBRARY), network("roberta"), "p")
    read = operate(
        PromptTuning(length=3, load=str(tmp_path / "prompt_peft"), **AS_LIBRARY),
        network("roberta"),
        "prompt",
    )
    torch.testing.assert_close(features(read), features(made), atol=1e-6, rtol=0)


def test_settings_of_ours_alone_leave_no_folder_of_the_library(tmp_path):
    method = PTuning(length=3, hidden=8)
    made = operate(method, network("bert"), "prompt")
    method.save_artifacts(
        tmp_path, SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["delta.safetensors"]
    again = operate(PTuning(length=3, hidden=8, load=str(tmp_path)), network("bert"), "prompt")
    assert torch.equal(features(again), features(made))


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        (
            {"placement": "behind", "positions": "shift"},
            "bert",
            "placement=behind: rows behind the padding need positions of their own, and BertModel "
            "counts them itself; use methods.prompt.positions=keep, or placement=after_first",
        ),
        ({}, "vit", "works on text encoders only; for images use peft=vpt"),
    ],
)
def test_refusals(settings, name, words):
    with pytest.raises(UserError, match=re.escape(words)):
        operate(PTuning(**settings), network(name), "prompt")


def test_folders_that_do_not_fit_are_refused(tmp_path):
    method = PTuning(length=3, hidden=8, **AS_LIBRARY)
    made = operate(method, network("bert"), "prompt")
    method.save_artifacts(
        tmp_path, SimpleNamespace(network=made, teacher=None, reported=lambda: made)
    )
    folder = str(tmp_path / "prompt_peft")
    with pytest.raises(UserError, match="has the rows, not the encoder that makes them; load it"):
        operate(PTuning(length=3, load=folder), network("bert"), "prompt")
    with pytest.raises(UserError, match=r"rows \[3, 32\], expected \[4, 32\]; set length=3"):
        operate(PromptTuning(length=4, load=folder), network("bert"), "prompt")
