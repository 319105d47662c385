import math

import pytest
import torch

from foundation.errors import UserError
from methods.peft.sites import find_blocks
from methods.peft.vpt import VPT, widened
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)


def test_masks():
    mask = torch.tensor([[[[True, True, False]] * 3]])
    wide = widened(mask, 2, 1)
    assert wide.shape == (1, 1, 5, 5)
    assert wide[0, 0].tolist() == [[True, True, True, True, False]] * 5
    added = torch.zeros(1, 1, 1, 3).masked_fill(~mask[:, :, :1], -9.0)
    assert widened(added, 2, 1)[0, 0].tolist() == [[0, 0, 0, 0, -9]]


@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("name", ["vit", "vit_avg"])
def test_a_vit_by_hand(name, mode):
    made = operate(VPT(mode, length=3), network(name), "vpt")
    fill(made, "vpt", 0.3)
    rows, vit = made.deltas["vpt"].rows, network(name).backbone.eval()
    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed((made.example().x - made.mean) / made.std))
        at = vit.num_prefix_tokens
        first, rest = x[:, :at], x[:, at:]
        prompt = rows[0].expand(2, 3, 32)
        for i, block in enumerate(vit.blocks):
            prompt = rows[i].expand(2, 3, 32) if mode == "deep" else prompt
            x = block(torch.cat([first, prompt, rest], 1))
            first, prompt, rest = x[:, :at], x[:, at : at + 3], x[:, at + 3 :]
        expected = vit.forward_head(vit.norm(torch.cat([first, rest], 1)))
    torch.testing.assert_close(features(made), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "albert"])
def test_padding_changes_nothing_on_texts(name, mode):
    made = operate(VPT(mode, length=3), network(name), "vpt")
    fill(made, "vpt", 0.3)
    assert says_the_same_whatever_is_padding(made, network(name))


def test_bert_by_hand():
    made = operate(VPT(length=3), network("bert"), "vpt")
    fill(made, "vpt", 0.3)
    bert, rows = network("bert").backbone.eval(), made.deltas["vpt"].rows
    x, mask, _ = made.example()
    with torch.no_grad():
        hidden = bert.embeddings(inputs_embeds=x)
        seen = torch.cat([mask[:, :1], torch.ones(2, 3, dtype=torch.bool), mask[:, 1:]], 1)[
            :, None, None, :
        ]
        for i, layer in enumerate(bert.encoder.layer):
            wide = torch.cat([hidden[:, :1], rows[i].expand(2, 3, 32), hidden[:, 1:]], 1)
            wide = layer(wide, seen)
            wide = wide[0] if isinstance(wide, tuple) else wide
            hidden = torch.cat([wide[:, :1], wide[:, 4:]], 1)
        real = mask.unsqueeze(-1)
        expected = (hidden * real).sum(1) / real.sum(1)
    torch.testing.assert_close(features(made), expected, atol=1e-6, rtol=1e-5)


def test_rotations_leave_the_prompts_out():
    made = operate(VPT(length=3), network("eva"), "vpt")
    fill(made, "vpt", 0.3)
    assert {
        m.num_prefix_tokens
        for m in made.backbone.blocks.modules()
        if hasattr(m, "num_prefix_tokens")
    } == {4}
    assert float((features(made) - features(network("eva"))).abs().max()) > 1e-3


def test_start_and_count():
    made = operate(VPT(length=5), network("vit"), "vpt")
    rows = made.deltas["vpt"].rows.detach()
    bound = math.sqrt(6 / (3 * 8 * 8 + 32))
    assert 0.9 * bound < float(rows.abs().max()) <= bound
    assert counts(made)[0] == 5 * 32 * 2
    assert counts(operate(VPT("shallow", 5), network("vit"), "vpt"))[0] == 5 * 32


def test_the_backbone_is_in_evaluation_mode_unless_asked():
    made = operate(VPT(dropout=0.5), network("bert"), "vpt")
    made.train()
    assert not any(module.training for module in made.backbone.modules())
    assert made.deltas["vpt"].dropout.training
    assert operate(VPT(backbone="train"), network("bert"), "vpt").backbone.training


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits_cnn", r"prompts need transformer blocks, and DigitsNet has conv.stem \(1\), norm"),
        ("beit", "blocks of Beit accept no more tokens"),
        ("swin", "blocks of SwinTransformer accept no more tokens"),
        ("modernbert", "blocks of ModernBertModel accept no more tokens"),
    ],
)
def test_networks_that_count_their_tokens_are_refused(name, words):
    with pytest.raises(UserError, match=words) as refusal:
        operate(VPT(), network(name), "vpt")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "at"), [("vit", 1), ("vit_avg", 1), ("bert", 1)])
def test_rows_stand_behind_the_class_token(name, at):
    """Order does not change attention, so outputs cannot tell; tools that read tokens by place
    can."""
    plain = network(name)
    made = operate(VPT(length=3), network(name), "vpt")
    seen = []
    for net in (plain, made):
        block = net.backbone.get_submodule(find_blocks(net.backbone)[0])
        block.register_forward_pre_hook(lambda block, args: seen.append(args[0].detach()))
        features(net)
    before, after = seen
    rows = made.deltas["vpt"].rows[0].expand(len(before), 3, -1)
    expected = torch.cat([before[:, :at], rows, before[:, at:]], 1)
    torch.testing.assert_close(after, expected)
