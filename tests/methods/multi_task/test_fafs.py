"""Fully-adaptive feature sharing: the worked example, clusters, trees of real backbones, and the
recipe of rounds."""

import copy
import json

import pytest
import torch
from torch import nn

import recipes
from foundation.errors import UserError
from methods.multi_task.affinity import (
    agreement,
    branch_affinity,
    choose,
    decayed,
    labeled,
    margins,
    partitions,
    separation,
    spectral,
)
from methods.multi_task.fafs import FAFS, Affinity
from methods.multi_task.fafs_widen import decide
from methods.multi_task.tree import (
    Branches,
    Tree,
    grow,
    read_tree,
    shared_tree,
    widened,
    write_tree,
)
from tests.methods.multi_task.test_architectures import BACKBONES, network_of, pictures, randomised
from tests.support.command import QUIET, roux, train
from tests.support.killed_runs import begin, differences, finish, state

# margins of three tasks on four samples
WORKED = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7], [0.8, 0.9, 0.6], [0.1, 0.2, 0.2]])
KNOWN = torch.ones(4, 3, dtype=torch.bool)
TASKS = ["shape", "colour"]


# -- mathematics -----------------------------------------------------------------------------------
def test_the_worked_example():
    means = WORKED.mean(0)
    torch.testing.assert_close(means, torch.tensor([0.5, 0.55, 0.4]))
    same, pairs = agreement(WORKED, means, KNOWN)
    affinity = same / pairs
    expected = [[1.0, 1.0, 0.5], [1.0, 1.0, 0.5], [0.5, 0.5, 1.0]]
    torch.testing.assert_close(affinity, torch.tensor(expected))
    branches = branch_affinity(affinity, [[0], [1], [2]])
    torch.testing.assert_close(branches, affinity)
    costs = {
        ((0, 1, 2),): 0.5,
        ((0, 1), (2,)): 0.1,
        ((0,), (1, 2)): 0.35,
        ((0,), (1,), (2,)): 0.2,
    }
    for clusters, cost in costs.items():
        found = (len(clusters) - 1) * 0.1 + separation(affinity, list(map(list, clusters)))
        assert found == pytest.approx(cost)
    choice = choose(affinity, price=0.1, alpha=1.0, most=3)
    assert choice.clusters == [[0, 1], [2]] and choice.cost == pytest.approx(0.1)
    assert choice.by_count == pytest.approx({1: 0.5, 2: 0.1, 3: 0.2})


def test_margins_are_the_distance_of_label_and_probability():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    p = torch.sigmoid(torch.tensor([1.0, -2.0]))
    label = torch.tensor([1, 0])
    torch.testing.assert_close(margins(logits, label), (label - p).abs())
    soft = nn.functional.one_hot(label, 2).float()
    torch.testing.assert_close(margins(logits, soft), (label - p).abs())
    assert labeled(torch.tensor([0, -1])).tolist() == [True, False]
    assert labeled(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).tolist() == [True, False]


def test_samples_without_a_label_count_for_no_pair():
    known = KNOWN.clone()
    known[0, 1] = False
    same, pairs = agreement(WORKED, WORKED.mean(0), known)
    assert pairs.tolist() == [[4, 3, 4], [3, 3, 3], [4, 3, 4]]
    assert same[0].tolist() == [4, 3, 2]


def test_the_running_mean_weighs_batches_by_the_decay():
    """v_2 = (λ v_1 + v_2) / (λ + 1), with weights 1, λ + 1, λ² + λ + 1."""
    value, total = torch.zeros(1), torch.zeros(1)
    for new, expected, weight in ((4.0, 4.0, 1.0), (1.0, 2.0, 1.5), (2.0, 2.0, 1.75)):
        known = torch.ones(1, dtype=torch.bool)
        value, total = decayed(value, total, torch.tensor([new]), known, decay=0.5)
        assert (float(value), float(total)) == pytest.approx((expected, weight))
    unchanged = decayed(value, total, torch.tensor([9.0]), torch.zeros(1, dtype=torch.bool), 0.5)
    assert (float(unchanged[0]), float(unchanged[1])) == pytest.approx((2.0, 1.75))


def test_the_affinity_of_branches_is_the_mean_of_both_directions():
    a = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.6], [0.2, 0.6, 1.0]])
    found = branch_affinity(a, [[0, 1], [2]])
    # {0, 1} -> {2}: (.2 + .6) / 2; {2} -> {0, 1}: min(.2, .6)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.3], [0.3, 1.0]]))


def test_difficulty_is_judged_by_the_mean_before_the_batch():
    state_of = Affinity(2)
    first = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    known = torch.ones(2, 2, dtype=torch.bool)
    state_of.add(first, known, 0.5)
    assert state_of.table.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert state_of.margin.tolist() == [0.5, 0.5]
    # above and below .5, whatever this batch's own mean is
    state_of.add(torch.tensor([[0.6, 0.1], [0.9, 0.2]]), known, 0.5)
    torch.testing.assert_close(state_of.table, torch.tensor([[1.0, 1 / 3], [1 / 3, 1.0]]))
    torch.testing.assert_close(state_of.margin, torch.tensor([2 / 3, 0.8 / 3]))


def test_partitions_are_as_many_as_the_bell_numbers_say():
    assert [len(list(partitions(n))) for n in range(1, 7)] == [1, 2, 5, 15, 52, 203]


@pytest.mark.parametrize(("alpha", "columns"), [(0.0, 1), (1.0, 2), (50.0, 4)])
def test_alpha_sets_how_far_tasks_part(alpha, columns):
    near, far = 0.9, 0.4
    a = torch.full((4, 4), far)
    a[:2, :2] = a[2:, 2:] = near
    a.fill_diagonal_(1.0)
    assert len(choose(a, price=0.1, alpha=alpha, most=4).clusters) == columns
    assert len(choose(a, price=0.1, alpha=alpha, most=1).clusters) == 1


def block_affinity(sizes: tuple[int, ...], seed: int = 0):
    """Tasks in groups, of shuffled numbers, with a little noise."""
    source = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    group = group[torch.randperm(len(group), generator=source)]
    noise = 0.05 * torch.rand(len(group), len(group), generator=source)
    a = torch.where(group[:, None] == group[None, :], 0.95, 0.5) - (noise + noise.T) / 2
    expected: dict[int, list[int]] = {}
    for i, g in enumerate(group.tolist()):
        expected.setdefault(g, []).append(i)
    return a.fill_diagonal_(1.0), sorted(expected.values())


def test_many_branches_are_clustered_by_their_spectrum():
    a, expected = block_affinity((5, 4, 3))
    assert spectral(a.double(), 3, seed=0) == expected
    assert choose(a, price=0.02, alpha=1.0, most=12).clusters == expected
    small, groups = block_affinity((3, 2, 2), seed=1)
    assert choose(small, price=0.06, alpha=1.0, most=7).clusters == groups
    assert spectral(small.double(), 3, seed=0) == groups


def test_duplicated_tasks_are_recovered():
    """Four tasks, of which two pairs see the same margins up to noise."""
    source = torch.Generator().manual_seed(0)
    table = Affinity(4)
    for _ in range(30):
        one, other = torch.rand(2, 16, 1, generator=source)
        e = torch.cat([one, other, one, other], 1)
        noise = 0.05 * torch.rand(16, 4, generator=source)
        table.add(e + noise, torch.ones(16, 4, dtype=torch.bool), 0.99)
    tasks = ["a", "b", "c", "d"]
    tree = Tree(stages_of([[tasks]] * 3), active=2)
    after, choice = decide(tree, tasks, table.table, alpha=1.0, most=None, seed=0)
    assert after.stages[2].groups == [["a", "c"], ["b", "d"]] and after.active == 1
    assert sorted(choice.by_count) == [1, 2, 3, 4]


def stages_of(groups):
    from methods.multi_task.tree import TreeStage

    return [TreeStage([f"layer{i}"], own, 0.0625) for i, own in enumerate(groups)]


# -- trees -----------------------------------------------------------------------------------------
def by_task(network, x):
    """Features by task, of networks that part and that do not."""
    network.eval()
    with torch.no_grad():
        found = network.features(x)
    return found if isinstance(found, dict) else dict.fromkeys(network.heads, found)


def shared(network, unit: float = 0.015625) -> Tree:
    return shared_tree(network, TASKS, unit, "multi_task=fafs")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_split_changes_no_output(name):
    """From the heads down, round after round, with weights as a program hands them on."""
    network = randomised(network_of(name))
    x = pictures(network)
    tree = shared(network)
    assert tree.active == len(tree.stages) - 1 and not tree.splits
    before = by_task(network, x)
    for _ in range(2):
        after = tree.split([["shape"], ["colour"]])
        grown = network_of(name, seed=9)
        grow(grown, after, TASKS, "x")
        missing = grown.load_state_dict(widened(network.state_dict(), tree, after))
        assert not missing.missing_keys
        found = by_task(grown, x)
        for task in TASKS:
            torch.testing.assert_close(found[task], before[task], atol=1e-6, rtol=1e-5)
        randomised(grown, seed=7)
        before = by_task(grown, x)
        assert not torch.equal(before["shape"], before["colour"])
        network, tree = grown, after


def test_a_stage_that_splits_again_wires_its_columns_by_group():
    tasks = ["a", "b", "c"]
    tree = Tree(stages_of([[tasks], [tasks], [["a"], ["b", "c"]], [["a"], ["b"], ["c"]]]), 1)
    assert tree.branches() == [["a"], ["b", "c"]]
    layers = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(2)])
    two = Branches(layers[0], [0, 0])
    three = Branches(layers[1], [0, 1, 1])
    with torch.no_grad():
        for column, weight in zip(two.copies, (2.0, 3.0), strict=True):
            column.weight.fill_(weight)
        for column, weight in zip(three.copies, (10.0, 100.0, 1000.0), strict=True):
            column.weight.fill_(weight)
    out = three(two(torch.ones(1, 1)))
    assert out.flatten().tolist() == [20.0, 300.0, 3000.0]


def test_parameters_are_those_of_the_columns():
    network = network_of("digits_cnn")
    tree = shared(network).split([["shape"], ["colour"]])
    own = {
        stage.layers[0]: sum(
            p.numel()
            for layer in stage.layers
            for p in network.backbone.get_submodule(layer).parameters()
        )
        for stage in tree.stages
    }
    before = sum(p.numel() for p in network.parameters())
    grow(network, tree, TASKS, "x")
    added = sum(p.numel() for p in network.parameters()) - before
    assert added == list(own.values())[-1] > 0


def test_the_price_of_a_column_doubles_where_the_picture_is_halved():
    # halvings in the second and the fourth of four stages
    prices = [stage.price for stage in shared(network_of("digits_cnn"), unit=1.0).stages]
    assert prices == [4.0, 4.0, 2.0, 2.0]


def test_the_first_stage_is_always_shared():
    tree = Tree(shared(network_of("digits_cnn")).stages, active=0)
    after, choice = decide(tree, TASKS, torch.zeros(2, 2), alpha=100.0, most=None, seed=0)
    assert after == tree and choice is None


def test_every_column_gets_gradients_of_its_tasks_alone():
    network = network_of("digits_cnn").train()
    tree = shared(network).split([["shape"], ["colour"]])
    grow(network, tree, TASKS, "x")
    logits = network(pictures(network)).logits
    logits["shape"].square().sum().backward()
    branches = [module for module in network.modules() if isinstance(module, Branches)]
    columns = next(module for module in branches if isinstance(module.copies[0], nn.Conv2d))
    assert columns.copies[0].weight.grad.any()
    other = columns.copies[1].weight.grad
    assert other is None or not other.any()


def test_trees_are_read_as_they_are_written_and_checked(tmp_path):
    network = network_of("digits_cnn")
    tree = shared(network).split([["shape"], ["colour"]])
    path = tmp_path / "tree.json"
    write_tree(path, tree)
    assert read_tree(str(path), TASKS, "methods.fafs.tree") == tree
    with pytest.raises(UserError, match=r"is of the tasks colour, shape; this run has a, b"):
        read_tree(str(path), ["a", "b"], "methods.fafs.tree")
    with pytest.raises(UserError, match=r"methods\.fafs\.tree=nowhere: cannot be read"):
        read_tree("nowhere", TASKS, "methods.fafs.tree")
    path.write_text(json.dumps({"stages": 3, "active": 1}))
    with pytest.raises(UserError, match=r"is no tree: stages is wrong; expected a tree\.json"):
        read_tree(str(path), TASKS, "methods.fafs.tree")
    crossed = copy.deepcopy(tree)
    crossed.stages[0].groups[:] = [["shape"], ["colour"]]
    crossed.stages[3].groups[:] = [["shape", "colour"]]
    write_tree(path, crossed)
    with pytest.raises(UserError, match="is of the tasks"):
        read_tree(str(path), TASKS, "methods.fafs.tree")


def test_a_tree_of_another_backbone_is_refused():
    tree = shared(network_of("resnet18")).split([["shape"], ["colour"]])
    with pytest.raises(UserError, match=r"the tree names a layer 'layer4', which network\.name"):
        grow(network_of("digits_cnn"), tree, TASKS, "methods.fafs.tree")


def test_the_plan_leaves_out_a_tree_that_is_still_to_be_made(tmp_path):
    from foundation.awaited import awaiting

    method = FAFS(tree=str(tmp_path / "tree.json"))
    network = network_of("digits_cnn")
    with awaiting([tmp_path / "tree.json"]):
        method.surgery(network)
    assert "features_by_task" in method.declare().tags
    with pytest.raises(UserError, match="cannot be read"):
        method.surgery(network)


# -- the recipe ------------------------------------------------------------------------------------
RECIPE = (
    "recipe=fafs",
    "network.name=digits_cnn",
    "+network.options.width=4",
    "trainer.max_steps=8",
    "trainer.val_every=4",
    "trainer.log_every=2",
    "checkpoint.every_n_steps=2",
    "data.batch_size=16",
    "methods.fafs.alpha=40.0",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fafs") / "run"
    train(folder, *RECIPE)
    return folder


def test_rounds_widen_the_network_until_no_stage_is_left(finished):
    done = json.loads((finished / "stages.json").read_text())
    rounds = [name for name in done if name.startswith("widen") and "stop" in done[name]]
    assert [done[name]["columns"] for name in rounds] == [2.0] * 3
    assert [done[name]["stop"] for name in rounds] == [0.0, 0.0, 1.0]
    assert done["train_4"] == {"left_out": 1.0}
    tree = json.loads((finished / "widen_3" / "tree.json").read_text())
    assert [len(stage["groups"]) for stage in tree["stages"]] == [1, 2, 2, 2]
    last = torch.load(finished / "final/checkpoints/last.ckpt", weights_only=True)
    columns = [name for name in last["state_dict"] if ".copies.1." in name]
    assert columns
    # new columns have an optimizer's state of their own
    assert len(last["optimizer_states"][0]["state"]) > 0
    assert "test/label/accuracy" in done["final"]


def test_a_round_begins_where_the_one_before_ended(finished):
    """The first metrics of a round are those of the network before its split, up to training."""
    first = torch.load(finished / "train_1/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    from safetensors.torch import load_file

    handed = load_file(finished / "widen_1" / "weights.safetensors")
    tree = json.loads((finished / "widen_1" / "tree.json").read_text())
    name = tree["stages"][-1]["layers"][0]
    for column in (0, 1):
        copied = handed[f"backbone.trunk.{name}.copies.{column}.weight"]
        assert torch.equal(copied, first[f"network.backbone.{name}.weight"])


def test_a_finished_run_is_loaded_from_its_checkpoint_alone(finished):
    """The tree is part of it: the file may be gone."""
    expected = recipes.load(finished).predict(torch.zeros(1, 8, 8), "probabilities")
    folder = finished / "widen_3"
    folder.rename(finished / "gone")
    try:
        found = recipes.load(finished).predict(torch.zeros(1, 8, 8), "probabilities")
    finally:
        (finished / "gone").rename(folder)
    for task, p in expected.items():
        assert torch.equal(found[task], p)


@pytest.mark.slow
def test_alpha_zero_never_splits(tmp_path):
    train(tmp_path / "run", *RECIPE, "methods.fafs.alpha=0.0")
    done = json.loads((tmp_path / "run" / "stages.json").read_text())
    assert done["widen_1"]["stop"] == 1.0 and done["widen_1"]["columns"] == 1.0


def test_what_does_not_go_with_it(tmp_path):
    outcome = roux(*QUIET, *RECIPE, "stages.train.peft=lora", f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 2 and "multi_task=fafs cannot be combined with peft=lora" in outcome.err
    outcome = roux(*QUIET, "multi_task=fafs", f"run_dir={tmp_path / 'run'}")
    assert outcome.code == 2 and "multi_task=fafs needs 2 tasks or more" in outcome.err


@pytest.mark.slow
def test_killed_in_a_round_it_ends_with_the_same_bits(tmp_path):
    own = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")
    command = [*RECIPE, *own]
    finish(command, tmp_path / "whole")
    marker = tmp_path / "killed"
    kill = (
        f"{{kill: {{_target_: tests.support.stage_programs.KillAt, marker: '{marker}', at: step}}}}"
    )
    killing = [*command, f"stages.train_2.callbacks={kill}"]
    process = begin(killing, tmp_path / "cut")
    process.join()
    assert process.exitcode == -9
    finish(killing, tmp_path / "cut")
    assert differences(state(tmp_path / "whole"), state(tmp_path / "cut")) == set()
