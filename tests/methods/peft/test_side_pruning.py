"""A ladder's start from the rows and columns of the backbone's weights that matter most."""

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
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
from tests.support.lab import trial
from tests.support.small_networks import features, network, operate
from tests.support.tiny_runs import run_of


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
