import math

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from methods.peft import prefixes
from methods.peft.lora import LoRA
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.prefixes import Masks, Widened, with_prefix
from recipes.services.teacher import copy_sharing_frozen
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

q = torch.tensor([[[[1.0, 0.0]]]])
K, V = torch.eye(2)[None, None], torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])


def attend(rows):
    with Widened(rows):
        return F.scaled_dot_product_attention(q, K, V)[0, 0, 0]


def test_worked_numbers():
    rows = torch.tensor([[[2.0, 0.0], [10.0, 0.0]]])
    torch.testing.assert_close(attend(rows), torch.tensor([6.463837, 1.128108]), atol=1e-5, rtol=0)
    plain = F.scaled_dot_product_attention(q, K, V)[0, 0, 0]
    torch.testing.assert_close(plain, torch.tensor([1.660477, 2.660477]), atol=1e-5, rtol=0)
    scores = torch.exp(torch.tensor([2.0, 1.0, 0.0]) / math.sqrt(2))
    share = float(scores[0] / scores.sum())
    assert share == pytest.approx(0.575975, abs=1e-6)
    torch.testing.assert_close(
        attend(rows), (1 - share) * plain + share * rows[0, 1], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(attend(torch.zeros(1, 2, 2)), 0.751745 * plain, atol=1e-5, rtol=0)


def test_masks_of_all_kinds_are_widened():
    rows = torch.randn(3, 2, 2)
    boolean = torch.tensor([[[[True, False]]]])
    added = torch.zeros(1, 1, 1, 2).masked_fill(~boolean, -torch.inf)
    results = []
    for mask in (boolean, added):
        key, value, wide = with_prefix(K, V, mask, rows)
        assert key.shape == (1, 1, 5, 2)
        results.append(F.scaled_dot_product_attention(q, key, value, wide))
    torch.testing.assert_close(*results)
    assert with_prefix(K, V, None, rows)[2] is None


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize(
    "name", ["bert", "roberta", "electra", "distilbert", "albert", "modernbert"]
)
def test_padding_changes_nothing(name, hidden):
    made = operate(PrefixTuning(length=3, hidden=hidden), network(name), "prefix")
    fill(made, "prefix", 0.3)
    assert says_the_same_whatever_is_padding(made, network(name))


@pytest.mark.parametrize("name", ["vit", "vit_avg", "eva", "beit"])
def test_pictures(name):
    made = operate(PrefixTuning(length=3), network(name), "prefix")
    fill(made, "prefix", 0.3)
    assert float((features(made) - features(network(name))).abs().max()) > 1e-3


def test_a_vit_by_hand():
    made = operate(PrefixTuning(length=3), network("vit"), "prefix")
    fill(made, "prefix", 0.3)
    vit = network("vit").backbone.eval()
    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed((made.example().x - made.mean) / made.std))
        for layer, block in enumerate(vit.blocks):
            rows = made.deltas["prefix"].rows(layer)
            h = block.norm1(x)
            query, key, value = block.attn.qkv(h).chunk(3, -1)
            key, value = (
                torch.cat([rows[:, i].expand(len(x), 3, 32), t], 1)
                for i, t in enumerate((key, value))
            )
            query, key, value = (
                t.view(len(x), -1, 4, 8).transpose(1, 2) for t in (query, key, value)
            )
            scores = (query @ key.transpose(-1, -2) / math.sqrt(8)).softmax(-1)
            x = x + block.attn.proj((scores @ value).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        expected = vit.forward_head(vit.norm(x))
    torch.testing.assert_close(features(made), expected, atol=1e-5, rtol=1e-5)


def test_parameters():
    assert counts(operate(PrefixTuning(length=5), network("bert"), "prefix"))[0] == 2 * 5 * 32 * 2


def test_an_averaged_copy_has_a_prefix_of_its_own():
    made = operate(PrefixTuning(length=3), network("bert"), "prefix")
    twin = copy_sharing_frozen(made)
    before = features(twin)
    fill(made, "prefix", 0.5)
    assert torch.equal(features(twin), before)
    assert not torch.equal(features(made), before)


def test_lora_on_keys_does_not_touch_the_prefix():
    made = network("vit")
    operate(PrefixTuning(length=3), made, "prefix")
    operate(LoRA(targets=["attn.k"]), made, "lora")
    fill(made, "prefix", 0.3)
    alone = features(made)
    fill(made, "lora", 0.3)
    assert float((features(made) - alone).abs().max()) > 1e-4


def test_an_error_inside_leaves_no_mode_on():
    made = operate(PrefixTuning(length=3), network("bert"), "prefix")
    with pytest.raises(RuntimeError):
        made.backbone.encoder.layer[0].attention(torch.zeros(2, 3, 31))
    assert F.scaled_dot_product_attention(q, K, V).shape == q.shape
    torch.testing.assert_close(
        F.scaled_dot_product_attention(q, K, V)[0, 0, 0, 0], torch.tensor(1.660477)
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits_cnn", r"a prefix needs attention, and DigitsNet has conv.stem \(1\)"),
        ("swin", "differ in width"),
        ("deberta", "DebertaV2Model never uses 'deltas.prefix.table'"),
    ],
)
def test_networks_without_such_attention_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        operate(PrefixTuning(), network(name), "prefix")


def test_a_mask_is_widened_once_a_forward_and_not_kept(monkeypatch):
    made = operate(PrefixTuning(length=3), network("bert"), "prefix")
    seen = []
    original = prefixes.widened
    monkeypatch.setattr(
        prefixes, "widened", lambda *given: seen.append(original(*given)) or seen[-1]
    )
    features(made)
    assert len(seen) == 1
    features(made)
    assert len(seen) == 2
    hooks = made.backbone.encoder.layer[-1].attention.self._forward_hooks.values()
    (masks,) = [hook.__self__.masks for hook in hooks if hasattr(hook.__self__, "masks")]
    assert masks.given is None and masks.wide is None


def test_another_mask_is_widened_anew():
    masks, one, other = Masks(), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    assert masks.widen(one, 3).tolist() == [[True] * 5]
    assert masks.widen(other, 1).tolist() == [[0.0, 0.0, 0.0]]
    assert masks.widen(one, 1).shape == (1, 3) and masks.widen(None, 1) is None
