"""AdapterFusion: the mixture in numbers, blocks written out by hand, limits, adapters of runs and
which of them are refused."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from methods.peft.adapter_fusion import (
    AdapterFusion,
    attention,
    distance_from_identity,
    fused,
)
from methods.peft.lora import LoRA
from methods.peft.store import read_delta_file, save_delta
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

TRANSFORMERS = [
    "vit",
    "beit",
    "eva",
    "swin",
    "swinv2",
    "bert",
    "distilbert",
    "modernbert",
    "deberta",
]
UNTRAINED = ["fresh"] * 3


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_worked_mixture():
    """Q h = (1, 2) + (0, 1), K δ = (2, 0), (0, 1): scores 2 and 3, p = (.26894, .73106)."""
    h = torch.tensor([1.0, 2.0])
    changes = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    shares = attention(
        h, changes, linear([[1.0, 0], [0, 1.0]], [0.0, 1.0]), linear([[1.0, 0], [0, 1]])
    )
    torch.testing.assert_close(shares, torch.tensor([0.26894142, 0.73105858]))
    value = linear([[2.0, 0.0], [1.0, 1.0]])
    # Σ p δ = (.53788, .73106)
    found = fused(changes, shares, value)
    torch.testing.assert_close(found, torch.tensor([1.07576569, 1.26894142]))
    assert float(distance_from_identity(value.weight.detach())) == pytest.approx(2.0)


def ready(name, std=0.3, **settings):
    """A network whose fusions are filled with numbers, adapters included."""
    made = operate(AdapterFusion(UNTRAINED, 4, **settings), network(name), "fusion")
    fill(made, "fusion", std)
    return made


def set_identity(made):
    with torch.no_grad():
        for layer in made.deltas["fusion"]:
            layer.value.weight.copy_(torch.eye(len(layer.value.weight)))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_without_effect_leave_every_transformer_as_it_was(name):
    made = ready(name)
    set_identity(made)
    with torch.no_grad():
        for layer in made.deltas["fusion"]:
            for adapter in layer.adapters:
                adapter.up.weight.zero_()
                adapter.up.bias.zero_()
    torch.testing.assert_close(features(made), features(network(name)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_equal_adapters_are_one(name):
    """With V = I, whatever Q and K are: what `peft=adapter` of the same weights computes."""
    made = ready(name)
    set_identity(made)
    single = operate(Adapter("pfeiffer", 4), network(name), "adapter")
    fill(single, "adapter")
    with torch.no_grad():
        for layer, adapter in zip(made.deltas["fusion"], single.deltas["adapter"], strict=True):
            for copy in layer.adapters:
                copy.load_state_dict(adapter.state_dict())
    torch.testing.assert_close(features(made), features(single), atol=1e-5, rtol=1e-5)
    assert float((features(made) - features(network(name))).abs().max()) > 1e-3


def mixture(layer, h):
    """Σ p V δ, adapter by adapter."""
    changes = [a.up(torch.relu(a.down(h))) for a in layer.adapters]
    scores = torch.stack([(layer.query(h) * layer.key(c)).sum(-1) for c in changes])
    shares = scores.softmax(0)
    values = [F.linear(c, layer.value.weight) for c in changes]
    return sum(p.unsqueeze(-1) * v for p, v in zip(shares, values, strict=True))


def test_bert_by_hand():
    made = ready("bert")
    said = features(made)
    made.eval()
    bert = made.backbone
    x, mask, _ = made.example()
    with torch.no_grad():
        hidden = bert.embeddings(inputs_embeds=x)
        wide = mask[:, None, None, :]
        for layer, fusion in zip(bert.encoder.layer, made.deltas["fusion"], strict=True):
            x = layer.attention(hidden, wide)[0]
            middle = layer.intermediate(x)
            out = layer.output.dense.forward(middle)
            norm = layer.output.LayerNorm
            hidden = norm.forward(x + out + mixture(fusion, norm.forward(x + out)))
        real = mask.unsqueeze(-1)
        expected = (hidden * real).sum(1) / real.sum(1)
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)


def test_vit_by_hand():
    made = ready("vit")
    said = features(made)
    made.eval()
    vit, plain = made.backbone, network("vit").backbone.eval()
    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed((made.example().x - made.mean) / made.std))
        for block, fusion in zip(plain.blocks, made.deltas["fusion"], strict=True):
            x = x + block.attn(block.norm1(x))
            x = x + block.mlp(block.norm2(x))
            x = x + mixture(fusion, x)
        expected = vit.forward_head(vit.norm(x))
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)


def test_what_is_trained_and_how_it_starts():
    made = operate(AdapterFusion(UNTRAINED, 4), network("bert"), "fusion")
    trained = {n for n, p in made.named_parameters() if p.requires_grad and "heads" not in n}
    parts = ("query.weight", "query.bias", "key.weight", "value.weight")
    assert trained == {f"deltas.fusion.{i}.{part}" for i in range(2) for part in parts}
    assert counts(made)[0] == 2 * (3 * 32 * 32 + 32)
    value = made.deltas["fusion"][0].value.weight.detach()
    assert value[0, 0] == 1 and float(value[0, 1]) == pytest.approx(1e-6)
    assert made.deltas["fusion"][0].value.weight._weight_decay == 0.0
    assert says_the_same_whatever_is_padding(ready("bert"), network("bert"))


# -- adapters of runs ------------------------------------------------------------------------------
def saved(folder: Path, name: str, method=None, seed=0, std=0.1, base=0) -> str:
    """The folder of a run, as far as its delta goes."""
    made = operate(method or Adapter("pfeiffer", 4), network("bert", seed=base), "adapter")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.deltas["adapter"].parameters():
            p.copy_(std * torch.randn(p.shape, generator=generator))
    save_delta(folder / name / "checkpoints" / "delta.safetensors", made)
    return str(folder / name)


def test_the_adapters_of_runs_are_loaded(tmp_path):
    one, two = saved(tmp_path, "one", seed=1), saved(tmp_path, "two", seed=2)
    checkpoint = str(Path(two) / "checkpoints" / "last.ckpt")
    made = operate(AdapterFusion([one, checkpoint], 4), network("bert"), "fusion")
    for number, seed in enumerate((1, 2)):
        generator = torch.Generator().manual_seed(seed)
        for layer in made.deltas["fusion"]:
            for p in layer.adapters[number].parameters():
                assert torch.equal(p, 0.1 * torch.randn(p.shape, generator=generator))


def test_a_fusion_is_saved_whole_and_loaded(tmp_path):
    runs = [saved(tmp_path, name, seed=i) for i, name in enumerate(("one", "two"))]
    made = operate(AdapterFusion(runs, 4), network("bert"), "fusion")
    with torch.no_grad():
        made.deltas["fusion"][1].query.weight.fill_(0.3)
    save_delta(tmp_path / "fusion.safetensors", made)
    again = operate(
        AdapterFusion(runs, 4, load=str(tmp_path / "fusion.safetensors")), network("bert"), "fusion"
    )
    assert torch.equal(features(again), features(made))


def test_the_plan_compares_structure_and_waits_for_earlier_stages(tmp_path):
    runs = [saved(tmp_path, "one"), str(tmp_path / "stage" / "checkpoints" / "last.ckpt")]
    with torch.device("meta"):
        operate(AdapterFusion(runs, 4), network("bert"), "fusion")
        with pytest.raises(UserError, match="bottleneck=4, and this run has bottleneck=8"):
            operate(AdapterFusion(runs, 8), network("bert"), "fusion")
    with pytest.raises(UserError, match="no such file"):
        operate(AdapterFusion(runs, 4), network("bert"), "fusion")


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        ({"method": LoRA(rank=2)}, "has no adapters but other changes (deltas.adapter.0."),
        ({"method": Adapter("houlsby", 4, train_norms=False)}, "variant=houlsby; only those with "
         "variant=pfeiffer are fused"),
        ({"method": Adapter("houlsby", 4)}, "variant=houlsby; only those with variant=pfeiffer"),
        ({"method": Adapter("pfeiffer", 4, train_norms=True)}, "has more than the adapters of one "
         "method (backbone."),
        ({"method": Adapter("parallel", 4)}, "variant=parallel; only those with variant=pfeiffer"),
        ({"method": Adapter("pfeiffer", 6)}, "has adapters with bottleneck=6, and this run has "
         "bottleneck=4; set methods.adapter_fusion.bottleneck=6"),
        ({"method": Adapter("pfeiffer", 4, 2.0)}, "scale=2.0, and this run has scale=1.0"),
        ({"method": Adapter("pfeiffer", 4, activation="gelu")}, "activation=gelu, and this run"),
        ({"base": 1}, "was trained on other weights of a BertModel; all runs need the same network"),
    ],
)  # fmt: skip
def test_runs_it_refuses(tmp_path, made_with, words):
    runs = [saved(tmp_path, "one"), saved(tmp_path, "two", **made_with)]
    with pytest.raises(UserError, match=re.escape(words)) as refusal:
        operate(AdapterFusion(runs, 4), network("bert"), "fusion")
    assert str(refusal.value).startswith(f"methods.fusion.adapters: '{runs[1]}' ")
    assert "\n" not in str(refusal.value)


def test_another_network_is_refused(tmp_path):
    runs = [saved(tmp_path, "one"), saved(tmp_path, "two")]
    with pytest.raises(UserError, match=r"has 2 adapters, first at 'encoder.layer.0.output.dense'"):
        operate(AdapterFusion(runs, 4), network("vit"), "fusion")


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        (None, "methods.fusion.adapters: names no runs; give two or more whose adapters are fused"),
        (["a"], "methods.fusion.adapters: names 1 run; give two or more"),
        (["a", "b", "a"], "methods.adapter_fusion.adapters: 'a' is there twice"),
        (["a", "b"], "methods.fusion.adapters=a: no such file; expected a run's folder"),
    ],
)
def test_lists_it_refuses(adapters, words):
    with pytest.raises(UserError, match=re.escape(words)):
        operate(AdapterFusion(adapters, 4), network("bert"), "fusion")


def test_the_file_of_an_earlier_version_is_refused(tmp_path):
    """It has no `structure` in its metadata."""
    run = Path(saved(tmp_path, "one"))
    file = run / "checkpoints" / "delta.safetensors"
    state, about = read_delta_file(file, "")
    save_file(state, file, metadata={k: v for k, v in about.items() if k != "structure"})
    with pytest.raises(UserError, match="was written by an earlier version"):
        operate(AdapterFusion([str(run), "fresh"], 4), network("bert"), "fusion")
