"""GLoRA against the peft library's layers, in its limits, and merged."""

import copy

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.peft.glora import General, GLoRA, bias_change, changed_weight
from methods.peft.glora_format import write_glora
from methods.peft.lora import LoRA, LowRank
from methods.peft.sites import Site
from methods.peft.weights import connect, merge
from tests.support.comparison import installed, same_gradients
from tests.support.peft_library import BERT_TARGETS, said
from tests.support.small_networks import IMAGE, TEXT, features, fill, network, operate

READS_WEIGHTS = ("beit", "swinv2", "eva")  # fused layers that are never called
WEIGHT_ONLY = {"c": "none", "d": "none", "e": "none"}


def settings_for(name):
    return WEIGHT_ONLY if name in READS_WEIGHTS else {}


def bert():
    """With biases, which D scales."""
    made = network("bert")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.backbone.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


def test_worked_numbers():
    """W = [[1, 2], [3, 4]], b = (1, -1), x = (1, 3)."""
    weight, bias = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, -1.0])
    a, b = torch.tensor([[1.0], [0.5]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    c, d, e = torch.tensor([[1.0], [-1.0]]), torch.tensor([2.0, 3.0]), torch.tensor([0.5])
    made = changed_weight(weight, a, b)
    assert made.tolist() == [[2.0, 5.0], [6.5, 6.0]]
    shift = bias_change(weight, bias, c, d, e)
    assert shift.tolist() == [1.5, -3.5]
    y = made @ torch.tensor([1.0, 3.0]) + bias + shift
    assert y.tolist() == [19.5, 20.0]


KINDS = ("lora", "vector", "scalar", "none")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, (3, 6)])
def test_attached_is_merged_for_every_form_and_rows(kind, rows):
    torch.manual_seed(0)
    layer = nn.Linear(4, 9)
    forms = {"a": kind, "b": kind, "c": kind if kind != "scalar" else "vector"}
    forms |= dict.fromkeys("de", "vector" if kind == "lora" else kind)
    delta = General(Site("l", "linear", layer, rows), 2, forms)
    for parameter in delta.parameters():
        nn.init.normal_(parameter)
    x, before = torch.randn(5, 4), copy.deepcopy(layer)
    weight, bias = delta.changed(layer.weight), delta.shift(layer.weight, layer.bias)
    connect([delta], layer, parametrised=False)
    expected = x @ weight.T + before.bias + (0 if bias is None else bias)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)
    if rows is not None:
        outside = [i for i in range(9) if not 3 <= i < 6]
        torch.testing.assert_close(layer(x)[:, outside], before(x)[:, outside])
    changed = not torch.allclose(layer(x), before(x))
    assert changed == (kind != "none")


def test_b_alone_is_lora():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    lora = LowRank(Site("l", "linear", layer), 2, 1.0, 0.0, "kaiming")
    nn.init.normal_(lora.b)
    forms = {"a": "none", "b": "lora", **WEIGHT_ONLY}
    delta = General(Site("l", "linear", layer), 2, forms)
    with torch.no_grad():
        delta.b.down.copy_(lora.b), delta.b.up.copy_(lora.a)
    torch.testing.assert_close(delta.changed(layer.weight), lora.changed(layer.weight))
    assert delta.shift(layer.weight, layer.bias) is None


@pytest.mark.parametrize("name", [*IMAGE, *TEXT])
def test_every_network_starts_as_it_was_changes_with_the_deltas_and_merges(name):
    before = features(network(name))
    made = operate(GLoRA(**settings_for(name)), network(name), "glora")
    torch.testing.assert_close(features(made), before, atol=1e-5, rtol=1e-5)
    fill(made, "glora")
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    names = [n for n, _ in made.named_parameters() if "glora" not in n]
    restore = merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    plain = network(name)
    # a layer without bias gets one
    added = made.state_dict().keys() - plain.state_dict().keys()
    assert all(key.endswith("bias") for key in added)
    assert plain.state_dict().keys() <= made.state_dict().keys()
    assert [type(m) for m in made.modules()] == [type(m) for m in plain.modules()]
    restore()
    assert torch.equal(features(made), changed)
    assert [n for n, _ in made.named_parameters() if "glora" not in n] == names


@pytest.mark.parametrize(
    ("forms", "theirs"),
    [
        ({}, {"config_A_B": "lora", "config_C": "lora", "config_D_E": "vector"}),
        (
            {"a": "vector", "b": "vector", "c": "vector", "d": "scalar", "e": "scalar"},
            {"config_A_B": "vector", "config_C": "vector", "config_D_E": "constant"},
        ),
        (
            {"a": "scalar", "b": "scalar", **WEIGHT_ONLY},
            {"config_A_B": "constant", "config_C": "none", "config_D_E": "none"},
        ),
    ],
)
def test_the_librarys_file_both_ways_with_its_outputs_and_gradients(forms, theirs, tmp_path):
    peft = installed("peft")
    config = peft.GloraConfig(target_modules=BERT_TARGETS, r=4, **theirs)
    model = peft.get_peft_model(bert().backbone.eval(), config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "glora_" in key:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "theirs")
    load = str(tmp_path / "theirs")
    made = operate(GLoRA(load=load, **forms), bert(), "glora")
    mine, yours = [], []
    for delta in made.deltas["glora"]:
        layer = model.base_model.model.get_submodule(delta.site)
        for name, parameter in delta.named_parameters():
            path = layer.get_submodule(f"glora_{name[0].upper()}.default")
            ends = {"down": "Xd", "up": "Xu"} if hasattr(path, "Xd") else {}
            yours.append(getattr(path, ends.get(name.rpartition(".")[2], "X")))
            mine.append(parameter)
    made.eval()
    same_gradients(made.features(made.example()), mine, said(model, made), yours)
    write_glora(tmp_path / "ours", list(made.deltas["glora"]))
    again = peft.PeftModel.from_pretrained(bert().backbone, tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(said(again, made), features(made), atol=1e-6, rtol=1e-5)


def test_what_the_library_cannot_represent_is_not_written(tmp_path):
    for name, forms in (("vit", {}), ("resnet", {}), ("bert", {"a": "none"})):
        made = operate(GLoRA(**forms), network(name), "glora")
        write_glora(tmp_path / "folder", list(made.deltas["glora"]))
        assert not (tmp_path / "folder").exists()


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'blocks.0.attn.qkv' without calling it.*glora.c=none"):
        operate(GLoRA(), network("beit"), "glora")
    nothing = dict.fromkeys("abcde", "none")
    with pytest.raises(UserError, match="so nothing would be trained"):
        GLoRA(**nothing).declare()
    assert set(GLoRA.declaration.refuses) & set(LoRA.declaration.tags)
    made = operate(GLoRA(), bert(), "glora")
    write_glora(tmp_path, list(made.deltas["glora"]))
    with pytest.raises(UserError, match=r"is \[32, 4\] there and \[32, 2\] here; set rank"):
        operate(GLoRA(2, load=str(tmp_path)), bert(), "glora")
    with pytest.raises(UserError, match=r"has no '.*glora_A.X'; set the forms as there"):
        operate(GLoRA(a="vector", load=str(tmp_path)), bert(), "glora")
