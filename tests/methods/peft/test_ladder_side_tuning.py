import math
import re

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from methods.peft.ladder import heads_for
from methods.peft.ladder_side_tuning import LadderSideTuning
from recipes.networks.taps import INPUT, tapped
from recipes.services.teacher import copy_sharing_frozen
from recipes.step import Embedded
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

NETWORKS = [
    "vit",
    "vit_avg",
    "eva",
    "beit",
    "bert",
    "roberta",
    "distilbert",
    "modernbert",
    "deberta",
]


def operated(name, **settings):
    made = operate(LadderSideTuning(**{"reduction": 2} | settings), network(name), "ladder")
    fill(made, "ladder", 0.3)
    return made


def by_hand(made, states, mask=None, temperature=0.1):
    """U LN(s_L), token by token and head by head, from the ladder's weights."""
    ladder = made.deltas["ladder"]
    s = F.linear(states[0], ladder.first.weight, ladder.first.bias)
    for i, rung in zip(ladder.kept, ladder.rungs, strict=True):
        share = 1 / (1 + math.exp(-float(rung.alpha.detach()) / temperature))
        read = F.linear(states[i + 1], rung.down.weight, rung.down.bias)
        s = share * s + (1 - share) * read
        block = rung.block
        if block.attention is not None:
            query, key, value = block.attention.qkv(block.first_norm(s)).chunk(3, -1)
            parts = []
            for head in range(block.attention.heads):
                d = query.shape[-1] // block.attention.heads
                q, k, v = (t[..., head * d : (head + 1) * d] for t in (query, key, value))
                scores = q @ k.transpose(1, 2) / math.sqrt(d)
                if mask is not None:
                    scores = scores.masked_fill(~mask[:, None, :], -math.inf)
                parts.append(scores.softmax(-1) @ v)
            s = s + block.attention.out(torch.cat(parts, -1))
        s = s + block.mlp(block.norm(s))
    return F.linear(ladder.norm(s), ladder.up.weight, ladder.up.bias)


def states_of(name):
    """h_0 … h_L of the plain backbone."""
    plain = network(name).eval()
    blocks = ["encoder.layer.0", "encoder.layer.1"] if name == "bert" else ["blocks.0", "blocks.1"]
    with torch.no_grad(), tapped(plain.backbone, [INPUT, *blocks], blocks[0]) as seen:
        plain(plain.example())
    return plain, [seen[key] for key in (INPUT, *blocks)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"side_block": "mlp"}, {"temperature": 0.5}, {"drop_every": 2}],
)
def test_a_vit_by_hand(settings):
    made = operated("vit", **settings)
    plain, states = states_of("vit")
    with torch.no_grad():
        result = by_hand(made, states, temperature=settings.get("temperature", 0.1))
        expected = plain.backbone.forward_head(plain.backbone.norm(result))
    torch.testing.assert_close(features(made), expected, atol=1e-5, rtol=1e-5)


def test_bert_by_hand():
    made = operated("bert")
    _, states = states_of("bert")
    mask = made.example().mask
    with torch.no_grad():
        result = by_hand(made, states, mask)
    real = mask.unsqueeze(-1)
    expected = (result * real).sum(1) / real.sum(1)
    torch.testing.assert_close(features(made), expected, atol=1e-5, rtol=1e-5)


class Same(torch.nn.Module):
    def forward(self, x, mask):
        return x


def test_gates():
    """At 0 half of each; with T = 0.1, 0.05 gives 0.6225."""
    rung = operated("vit").deltas["ladder"].rungs[0]
    rung.block = Same()
    s, h = torch.randn(1, 3, 16), torch.randn(1, 3, 32)
    for alpha, share in ((0.0, 0.5), (0.05, 0.622459), (10.0, 1.0), (-10.0, 0.0)):
        rung.alpha.data.fill_(alpha)
        expected = share * s + (1 - share) * rung.down(h)
        torch.testing.assert_close(rung(s, h, None), expected, atol=1e-5, rtol=1e-5)


def saved_bytes(made):
    """What a forward keeps for its backward, parameters left out; and the state of the last
    block."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = made.train()(made.example())
    return sum(kept.values()), output


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_no_gradient_flows_through_the_backbone(name):
    made = operated(name, reduction=8)
    block = "encoder.layer.0" if name == "bert" else "blocks.0"
    with tapped(made.backbone, [block]) as seen:
        used, output = saved_bytes(made)
    assert seen[block].grad_fn is None and not seen[block].requires_grad
    sum(logits.sum() for logits in output.logits.values()).backward()
    assert all(p.grad is None for p in made.backbone.parameters())
    assert all(p.grad is not None for p in made.deltas.parameters())
    adapters = operate(Adapter(bottleneck=8, train_norms=False), network(name), "adapter")
    assert used < 0.65 * saved_bytes(adapters)[0]


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_the_gradient_of_the_input_is_exact(name):
    """As an attack asks for it: by finite differences, in double precision."""
    made = operated(name).double().eval()
    x, mask, _ = made.example()
    x = x.double().detach()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()

    def value(x):
        if mask is None:
            return made.features(Embedded(x)).square().sum()
        output = made.backbone(inputs_embeds=x, attention_mask=mask.long())
        return output.last_hidden_state[mask].square().sum()

    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(given), [given])
    step = 1e-5
    slope = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    made = operated(name)
    assert float((features(made) - features(network(name))).abs().max()) > 1e-3
    if made.kind == "text":
        assert says_the_same_whatever_is_padding(made, network(name))


def test_no_hook_and_no_state_stays():
    made = operated("bert")
    ladder = made.deltas["ladder"]

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.modules())

    before = hooks()
    features(made)
    assert hooks() == before and ladder.seen == {} and ladder.mask is None
    with pytest.raises(RuntimeError):
        made.backbone(inputs_embeds=torch.zeros(2, 3, 31), attention_mask=torch.ones(2, 3))
    assert hooks() == before and torch.is_grad_enabled() and ladder.seen == {}


def test_an_averaged_copy_climbs_by_itself():
    made = operated("bert")
    twin = copy_sharing_frozen(made)
    before = features(twin)
    fill(made, "ladder", 0.5)
    assert torch.equal(features(twin), before)
    assert not torch.equal(features(made), before)


def test_sizes():
    assert [heads_for(width) for width in (2, 8, 12, 24, 48, 96, 100)] == [1, 1, 1, 3, 6, 12, 10]
    made = operate(LadderSideTuning(reduction=4), network("bert"), "ladder")
    first, up, norm = 33 * 8, 9 * 32, 16
    block = 16 + 8 * 24 + 72 + 16 + 9 * 32 + 33 * 8
    assert counts(made)[0] == first + up + norm + 2 * (33 * 8 + 1 + block)
    assert made.deltas["ladder"].kept == (0, 1)
    thinned = operate(LadderSideTuning(drop_every=2), network("bert"), "ladder")
    assert thinned.deltas["ladder"].kept == (1,)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet", {}, "methods.ladder: a ladder needs transformer blocks, and ResNet has conv.s"),
        ("swin", {}, "differ in the shape of their states"),
        ("bert", {"reduction": 33}, "reduction=33: the states of BertModel are only 32 wide, and"),
        ("bert", {"reduction": 9}, "leaves only signs; set it to at most 8"),
        ("bert", {"drop_every": 1}, "drop_every=1: none of 2 block(s) keeps its rung; set it to 0"),
    ],
)
def test_refusals(name, settings, words):
    with pytest.raises(UserError, match=re.escape(words)):
        operate(LadderSideTuning(**settings), network(name), "ladder")
