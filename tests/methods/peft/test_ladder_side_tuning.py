import math
import re

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from methods.peft.ladder import heads_for
from methods.peft.ladder_side_tuning import LadderSideTuning
from methods.peft.side_pruning import (
    Layer,
    fill_attention,
    fill_mlp,
    kept_states,
    layers_of,
    magnitudes,
    select_states,
    top,
)
from recipes.networks.taps import INPUT, tapped
from recipes.services.teacher import copy_sharing_frozen
from recipes.step import Embedded
from tests.support.lab import trial
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)
from tests.support.tiny_runs import run_of

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
        ("bert", {"reduction": 33}, "reduction=33: the states of BertModel are only 32 wide; set"),
        ("bert", {"drop_every": 1}, "drop_every=1: none of 2 block(s) keeps its rung; set it to 0"),
    ],
)
def test_refusals(name, settings, words):
    with pytest.raises(UserError, match=re.escape(words)):
        operate(LadderSideTuning(**settings), network(name), "ladder")


# -- the start from pruned weights -----------------------------------------------------------------
def layer(rows, columns, scores=None, bias=True):
    """A layer whose weight says where it is: 10 · row + column."""
    grid = 10.0 * torch.arange(rows)[:, None] + torch.arange(columns)
    scores = torch.ones(rows, columns) if scores is None else scores
    return Layer(grid, torch.arange(rows) / 10 if bias else None, scores)


def test_rows_and_columns_by_importance():
    assert top(torch.tensor([1.0, 5.0, 3.0, 4.0]), 3).tolist() == [1, 2, 3]
    important = torch.ones(4, 4)
    important[:, 2] += 5  # a number of the stream that is read
    layers = {role: layer(4, 4) for role in ("attn.q", "attn.k", "attn.v", "attn.out")}
    layers["mlp.in"] = layer(6, 4)
    layers["mlp.out"] = layer(4, 6)
    writing = torch.ones(4, 4)
    writing[1] += 3  # and one that is written
    block = layers | {"attn.k": layer(4, 4, important), "attn.out": layer(4, 4, writing)}
    assert kept_states([layers, block], 2).tolist() == [1, 2]


def test_a_narrow_block_in_numbers():
    states = torch.tensor([1, 3])
    scores = torch.ones(6, 4)
    scores[[0, 5]] += 1
    layers = {"mlp.in": layer(6, 4, scores), "mlp.out": layer(4, 6)}
    mlp = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU(), torch.nn.Linear(2, 2))
    fill_mlp(mlp, layers, states)
    assert mlp[0].weight.tolist() == [[1, 3], [51, 53]]
    torch.testing.assert_close(mlp[0].bias.detach(), torch.tensor([0.0, 0.5]))
    assert mlp[2].weight.tolist() == [[10, 15], [30, 35]]
    torch.testing.assert_close(mlp[2].bias.detach(), torch.tensor([0.1, 0.3]))
    of_keys, of_values = torch.ones(4, 4), torch.ones(4, 4)
    of_keys[[1, 2]] += 1
    of_values[[0, 3]] += 1
    attention = {"attn.q": layer(4, 4), "attn.k": layer(4, 4, of_keys)}
    attention |= {"attn.v": layer(4, 4, of_values), "attn.out": layer(4, 4, bias=False)}
    qkv, out = torch.nn.Linear(2, 6, bias=False), torch.nn.Linear(2, 2)
    before = out.bias.detach().clone()
    fill_attention(qkv, out, attention, states)
    rows = [[11, 13], [21, 23]]
    assert qkv.weight.tolist() == [*rows, *rows, [1, 3], [31, 33]]
    assert out.weight.tolist() == [[10, 13], [30, 33]] and torch.equal(out.bias.detach(), before)


def test_projections_select_and_put_back():
    down, up = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    states = torch.tensor([1, 3])
    select_states(down, states)
    select_states(up, states, back=True)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert down(x).tolist() == [2, 4]
    assert up(down(x)).tolist() == [0, 2, 0, 4]


@pytest.mark.parametrize("name", ["vit", "beit", "bert", "roberta", "distilbert", "deberta"])
@pytest.mark.parametrize("side_block", ["transformer", "mlp"])
def test_a_start_by_magnitude(name, side_block):
    settings = {"reduction": 2, "side_block": side_block, "init": "magnitude"}
    made = operate(LadderSideTuning(**settings), network(name), "ladder")
    ladder = made.deltas["ladder"]
    backbone = network(name).backbone
    blocks = [layers_of(backbone, n, magnitudes(backbone), "") for n in ladder.names]
    states = kept_states(blocks, 16)
    x = torch.randn(3, 32)
    torch.testing.assert_close(ladder.first(x), x[:, states])
    torch.testing.assert_close(ladder.rungs[1].down(x), x[:, states])
    read, write = blocks[0]["mlp.in"], blocks[0]["mlp.out"]
    units = top(read.of_rows + write.of_columns, 64)  # four times the width of 16
    expected = write.weight[states][:, units]
    torch.testing.assert_close(ladder.rungs[0].block.mlp[2].weight.detach(), expected)
    assert features(made).isfinite().all()


def test_fisher_information_chooses_and_the_ladder_stands_again():
    """In a run: the start is what the survey of the plain backbone says, and only the ladder and the
    head are trained afterwards."""
    changes = {"methods.ladder_side_tuning.init": "fisher", "trainer.max_steps": 2}
    outcome = trial(run_of("image", "ladder_side_tuning", **changes))
    network = outcome.recipe.network
    ladder = network.deltas["ladder_side_tuning"]
    assert not ladder.aside
    frozen = [name for name, p in network.backbone.named_parameters() if p.requires_grad]
    assert frozen == [] and all(p.requires_grad for p in network.heads.parameters())
    other = trial(
        run_of(
            "image", "ladder_side_tuning", **changes | {"methods.ladder_side_tuning.init": "random"}
        )
    )
    assert all(
        torch.equal(value, other.state[name])
        for name, value in outcome.state.items()
        if name.startswith("network.backbone.")
    )
    # two steps from a selection of states: most entries are still near 0 or 1
    first = ladder.first.weight.detach()
    assert int((first > 0.5).sum()) == len(first)


def test_the_survey_sees_the_plain_backbone():
    """Its table against a loop over the labeled samples with a network that has no ladder."""
    config = run_of("image", "ladder_side_tuning", **{"methods.ladder_side_tuning.init": "fisher"})
    tables = {}

    def watch(assembly):
        method = assembly.composition.methods["ladder_side_tuning"]
        plain = method.surveyed
        method.surveyed = lambda survey, table, context: (
            tables.update(table),
            plain(survey, table, context),
        )

    outcome = trial(config, before_build=watch)
    recipe, data = outcome.recipe, outcome.trainer.datamodule
    network = recipe.network
    network.load_state_dict({n: outcome.start[f"network.{n}"] for n in network.state_dict()})
    network.eval()
    names = [name for name, _ in network.named_parameters() if name.startswith("backbone.")]
    assert set(tables) == set(names)
    network.requires_grad_(True)
    network.deltas["ladder_side_tuning"].aside = True
    part = data.parts["labeled"]
    total, count = 0, 0
    name = "backbone.blocks.0.mlp.fc2.weight"
    for rows in torch.arange(len(part)).tensor_split(-(-len(part) // 64)):
        found = part.fetch(rows)
        logits = network(network.embed(data.make_view(found, "raw"))).logits["label"]
        loss = F.cross_entropy(logits, found["targets"]["label"])
        total = total + torch.autograd.grad(loss, network.get_parameter(name))[0].square()
        count += 1
    torch.testing.assert_close(tables[name], total / count, atol=1e-8, rtol=1e-3)


@pytest.mark.parametrize("init", ["magnitude", "fisher"])
def test_gated_blocks_have_no_such_start(init):
    with pytest.raises(UserError, match=rf"init={init}: the feed-forward part .* has gates"):
        operate(LadderSideTuning(2, init=init), network("modernbert"), "ladder")
