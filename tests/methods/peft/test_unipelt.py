from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from methods.peft.gates import Tokens, Weighted, gate_mean
from methods.peft.lora import LoRA
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prefixes import Masks, Widened
from methods.peft.prompt_tuning import PromptTuning
from methods.peft.unipelt import UniPELT
from recipes.services.teacher import copy_sharing_frozen
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

SMALL = {"bottleneck": 4, "length": 3, "hidden": 8, "rank": 2}
OPEN = 40.0  # a gate with this bias is 1, with its negative 0


def biased(made, part, bias):
    """Set all gates of a part to a constant."""
    for name, parameter in made.deltas["unipelt"][part].named_parameters():
        if "linear" in name and "gate" in name:
            parameter.data.fill_(bias if name.endswith("bias") else 0.0)


def test_the_mean_leaves_padding_out():
    each = torch.tensor([[[0.2], [0.4], [0.9]]])
    assert gate_mean(each, None).item() == pytest.approx(0.5)
    assert gate_mean(each, torch.tensor([[1, 1, 0]])).item() == pytest.approx(0.3)
    tokens = Tokens()
    tokens.note(None, (), {"attention_mask": torch.tensor([[1, 0]])})
    assert tokens.real(torch.zeros(1, 4, 2)).tolist() == [[1, 1, 1, 0]]
    tokens.forget(None, (), None)
    assert tokens.real(torch.zeros(1, 4, 2)) is None


@pytest.mark.parametrize("prefix_gate", ["rows", "mass"])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_padding_changes_nothing(name, prefix_gate):
    made = operate(UniPELT(**SMALL, prefix_gate=prefix_gate), network(name), "unipelt")
    fill(made, "unipelt", 0.3)
    assert says_the_same_whatever_is_padding(made, network(name))


def test_with_all_tokens_padding_counts():
    made = operate(UniPELT(**SMALL, gate_mean="all"), network("bert"), "unipelt")
    fill(made, "unipelt", 0.3)
    assert not says_the_same_whatever_is_padding(made, network("bert"))


def test_a_prompt_does_not_blur_what_is_padding():
    made = operate(PromptTuning(length=3), network("bert"), "prompt")
    operate(UniPELT(**SMALL), made, "unipelt")
    fill(made, "prompt", 0.3)
    fill(made, "unipelt", 0.3)
    assert says_the_same_whatever_is_padding(made, network("bert"))


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_with_an_open_gate_it_is_lora_of_scale_1(name):
    made = operate(UniPELT(bottleneck=0, length=0, rank=2), network(name), "unipelt")
    fill(made, "unipelt", 0.3)
    biased(made, "lora", OPEN)
    plain = operate(LoRA(rank=2, alpha=2.0, targets=["attn.q", "attn.v"]), network(name), "lora")
    for mine, theirs in zip(made.deltas["unipelt"]["lora"], plain.deltas["lora"], strict=True):
        theirs.a.data.copy_(mine.a)
        theirs.b.data.copy_(mine.b)
    torch.testing.assert_close(features(made), features(plain), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prefix_gate", ["rows", "mass"])
def test_with_an_open_gate_it_is_a_prefix(prefix_gate):
    settings = {"bottleneck": 0, "length": 3, "hidden": 0, "rank": 0, "prefix_gate": prefix_gate}
    made = operate(UniPELT(**settings), network("bert"), "unipelt")
    fill(made, "unipelt", 0.3)
    biased(made, "prefix", OPEN)
    plain = operate(PrefixTuning(length=3), network("bert"), "prefix")
    plain.deltas["prefix"].table.data.copy_(made.deltas["unipelt"]["prefix"].table)
    torch.testing.assert_close(features(made), features(plain), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("prefix_gate", "gone"), [("rows", False), ("mass", True)])
def test_a_closed_gate_of_rows_leaves_their_share_of_attention(prefix_gate, gone):
    made = operate(UniPELT(**SMALL, prefix_gate=prefix_gate), network("vit"), "unipelt")
    fill(made, "unipelt", 0.3)
    for part in ("lora", "prefix", "adapters"):
        biased(made, part, -OPEN)
    assert torch.allclose(features(made), features(network("vit")), atol=1e-5) == gone


def test_a_gate_of_mass_multiplies_the_share_of_the_rows():
    query, key, value = torch.randn(3, 2, 1, 4, 6)
    rows = torch.randn(2, 2, 6)
    gate = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1)
    with Widened(rows):
        full = F.scaled_dot_product_attention(query, key, value)
    with Weighted(rows, Masks(), gate):
        seen = F.scaled_dot_product_attention(query, key, value)
    ours = (query @ rows[:, 0].t() / 6**0.5).exp().sum(-1, keepdim=True)
    theirs = (query @ key.transpose(-1, -2) / 6**0.5).exp().sum(-1, keepdim=True)
    share = ours / (ours + theirs)
    plain = F.scaled_dot_product_attention(query, key, value)
    of_rows = (full - (1 - share) * plain) / share
    torch.testing.assert_close(
        seen, (1 - gate * share) * plain + gate * share * of_rows, atol=1e-5, rtol=1e-5
    )


def test_samples_have_gates_of_their_own():
    made = operate(UniPELT(**SMALL), network("vit"), "unipelt")
    gate = made.deltas["unipelt"]["adapters"][0].gate
    x = torch.randn(3, 5, 32)
    found = gate(x)
    assert found.shape == (3, 1, 1)
    for sample in range(3):
        by_token = [torch.sigmoid(gate.linear(token)).item() for token in x[sample]]
        assert float(found[sample]) == pytest.approx(sum(by_token) / 5, abs=1e-6)


def test_an_averaged_copy_notes_its_own_mask():
    made = operate(UniPELT(**SMALL), network("bert"), "unipelt")
    twin = copy_sharing_frozen(made)
    mine = made.deltas["unipelt"]["adapters"][0].gate.tokens
    other = twin.deltas["unipelt"]["adapters"][0].gate.tokens
    assert mine is not other
    assert other is twin.deltas["unipelt"]["lora"][0].gate.tokens
    torch.testing.assert_close(features(twin), features(made))


def test_parameters_and_their_decay():
    made = operate(UniPELT(**SMALL), network("bert"), "unipelt")
    prefix = 3 * 32 + (32 * 8 + 8) + 8 * 2 * 2 * 32 + 2 * 2 * 32
    gates = 2 * 4 * (32 + 1)
    lora = 2 * 2 * 2 * (32 + 32)
    assert counts(made)[0] == prefix + gates + lora + 2 * (2 * 32 * 4 + 4 + 32)
    method = UniPELT()
    method.key = "unipelt"
    (group,) = method.parameter_groups(SimpleNamespace(network=made))
    assert len({id(p) for p in group["params"]}) == len(group["params"])
    assert sum(p.numel() for p in group["params"]) == prefix + gates


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet", {}, "methods.unipelt.targets: no layer of ResNet is 'attn.q'"),
        ("beit", {}, "methods.unipelt.rank: Beit reads the weight of 'blocks.0.attn.qkv' without"),
        ("vit", {"rank": 0, "length": 0, "bottleneck": 0}, "finds nothing to train"),
    ],
)
def test_refusals(name, settings, words):
    with pytest.raises(UserError, match=words):
        operate(UniPELT(**settings), network(name), "unipelt")
    if name == "beit":
        operate(UniPELT(**SMALL | {"rank": 0}), network(name), "unipelt")
