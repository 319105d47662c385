import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from foundation.randomness import generator
from methods.adversarial.fgm import FGM
from methods.averaging.ema import EMA
from methods.long_tail.bags import (
    BAGS,
    GroupedHead,
    group_costs,
    group_shares,
    groups_of,
    merged_scores,
    used_samples,
)
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.class_balanced_loss import ClassBalancedLoss
from methods.long_tail.crt import ClassifierRetraining
from methods.long_tail.focal_loss import FocalLoss
from methods.regularization.mixup import Mixup
from methods.regularization.sam import SAM
from methods.semi_supervised.fixmatch import FixMatch
from recipes.step.criterion import of_target
from tests.support.harness import Setup, build, train, values_differ

SOURCE = generator("bags")
GROUP = torch.tensor([0, 1, 0, 2, 2, 1, 2])
Z = 3 * torch.randn(20, 10, generator=SOURCE)  # seven classes, then the three "others"
Y = torch.randint(7, (20,), generator=SOURCE)


def head_of(group):
    return GroupedHead(4, group)


def differences(z, group):
    return z[:, : len(group)] - z[:, len(group) + group]


def loss_of(z, y, group, used):
    """The mean over samples, as the engine takes it."""
    own = torch.where(y >= 0, group[y.clamp_min(0)], -1)
    shares = group_shares(own, used)
    d = differences(z, group)
    losses = of_target(group_costs(d, group, head_of(group).mask, shares), y)
    return losses.sum() / (y >= 0).sum()


def loop(z, y, group, used):
    """Group by group, sample by sample, on all C + G logits in NumPy."""
    z, total = z.double().numpy(), 0.0
    classes = len(group)
    for g in range(int(group.max()) + 1):
        inside = [c for c in range(classes) if group[c] == g]
        columns = [classes + g, *inside]
        losses = []
        for i in range(len(z)):
            if used[i, g]:
                target = int(y[i]) if int(y[i]) in inside else classes + g
                rows = z[i, columns]
                losses.append(np.log(np.exp(rows).sum()) - z[i, target])
        total += sum(losses) / max(1, len(losses))
    return total


def test_worked_example():
    group = torch.tensor([0, 1, 1])
    # [classes 0, 1, 2, others of both groups]
    z = torch.tensor([[1.5, 0.3, -0.2, 0.2, 0.1], [-0.3, 0.2, 1.1, 0.4, -0.5]])
    y = torch.tensor([0, 2])
    used = torch.ones(2, 2, dtype=torch.bool)
    for g, expected in ((0, 0.32209725), (1, 0.78061018)):
        alone = used.clone()
        alone[:, 1 - g] = False
        assert float(loss_of(z, y, group, alone)) == pytest.approx(expected, abs=1e-6)
    assert float(loss_of(z, y, group, used)) == pytest.approx(1.10270743, abs=1e-6)
    scores = merged_scores(differences(z, group), group, head_of(group).mask).exp()
    expected = [[0.78583498, 0.41232669, 0.25008878], [0.33181223, 0.25276855, 0.62171031]]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("beta", [None, 0.5, 2.0])
def test_equals_the_loop_over_groups_and_samples(beta):
    y = Y.clone()
    y[::6] = -1
    own = torch.where(y >= 0, GROUP[y.clamp_min(0)], -1)
    used = used_samples(own, torch.rand(20, 3, generator=SOURCE), beta)
    found = loss_of(Z, y, GROUP, used)
    assert float(found) == pytest.approx(loop(Z, y, GROUP, used), rel=1e-5)


def test_a_group_of_one_class_is_its_binary_loss():
    group = torch.tensor([0, 1, 1])
    z = 2 * torch.randn(9, 5, generator=SOURCE)
    y = torch.randint(3, (9,), generator=SOURCE)
    used = torch.tensor([[True, False]]).repeat(9, 1)
    binary = F.binary_cross_entropy_with_logits(z[:, 0] - z[:, 3], (y == 0).float())
    torch.testing.assert_close(loss_of(z, y, group, used), binary)


def test_groups_are_intervals_of_counts_without_the_empty_ones():
    counts = torch.tensor([5000, 999, 1000, 9, 10, 0, 99])
    assert groups_of(counts, [10, 100, 1000]).tolist() == [3, 2, 3, 0, 1, 0, 1]
    assert groups_of(counts, [2, 3, 4, 10]).tolist() == [2, 2, 2, 1, 2, 0, 2]


def test_others_are_drawn_for_each_sample_inside():
    own = torch.tensor([0] * 40 + [1] * 3 + [-1] * 5)
    priorities = torch.rand(48, 3, generator=SOURCE)
    for beta, expected in ((8.0, [43, 3 + 24, 0]), (0.5, [43, 3 + 1, 0]), (None, [43, 43, 0])):
        used = used_samples(own, priorities, beta)
        assert used.sum(0).tolist() == expected
        assert used[:40, 0].all() and used[40:43, 1].all() and not used[43:].any()
    lowest = priorities[:40, 1].argsort()[:24]
    assert used_samples(own, priorities, 8.0)[lowest, 1].all()


def test_the_head_has_an_output_others_per_group():
    head = head_of(GROUP)
    x = torch.randn(5, 4, generator=SOURCE)
    z = torch.cat([F.linear(x, head.weight, head.bias), head.others(x)], 1)
    assert z.shape == (5, 10)
    torch.testing.assert_close(head(x), differences(z, GROUP))


BY_COUNT = {"thresholds": [8]}  # the three classes of the small runs have 7, 8 and 9 samples


def test_in_a_run():
    """The first loss is that of the loop, on the logits and draws of the run."""
    recipe = build({"bags": BAGS(**BY_COUNT, beta=1.0)}, Setup())
    head = recipe.network.heads["label"]
    assert isinstance(head, GroupedHead) and head.others.weight.shape == (2, 16)
    before = torch.cat([head.weight, head.others.weight]).detach()
    result = train({"bags": BAGS(**BY_COUNT, beta=1.0)}, steps=2, lr=0.0)
    step = result.recipe.last_step
    own = head.group[step.streams["labeled"].targets["label"]]
    draw = step.randomness.shared("bags/label", 6).uniform(2)
    used = used_samples(own, draw, 1.0)
    assert 0 < int(used.sum()) < used.numel()
    d = step.logits("labeled", "label").detach()
    whole = torch.cat([d, torch.zeros(6, 2)], 1)  # "others" at 0 give the same differences
    expected = loop(whole, step.streams["labeled"].targets["label"], head.group, used)
    assert result.losses[1] == pytest.approx(expected, rel=1e-5)
    after = train({"bags": BAGS(**BY_COUNT)}, steps=3).recipe.network.heads["label"]
    moved = torch.cat([after.weight, after.others.weight]) != before
    assert moved.any(1).all(), "every output learns, those of others too"


def test_prediction_is_of_the_merged_scores():
    recipe = build({"bags": BAGS(**BY_COUNT)}, Setup())
    d = torch.tensor([[2.0, 3.0, 3.0]])
    (method,) = recipe.composition.methods.values()
    scores = method.infer(d, "label", recipe)
    group = recipe.network.heads["label"].group.tolist()
    for c in range(3):
        rest = sum(math.exp(float(d[0, k])) for k in range(3) if group[k] == group[c])
        assert float(scores[0, c].exp()) == pytest.approx(math.exp(float(d[0, c])) / (1 + rest))


def test_two_passes_use_the_same_draws_and_an_average_has_the_same_head():
    methods = {"bags": BAGS(**BY_COUNT, beta=1.0), "sam": SAM(), "ema": EMA(decay=0.5)}
    result = train(methods, steps=3)
    teacher = result.recipe.teacher.network.heads["label"]
    assert torch.equal(teacher.group, result.recipe.network.heads["label"].group)
    assert all(math.isfinite(loss) for loss in result.losses)


def test_after_classifier_retraining_only_the_new_head_learns():
    start = Setup().network().state_dict()
    for order in (("bags", "crt"), ("crt", "bags")):
        made = {"bags": BAGS(**BY_COUNT), "crt": ClassifierRetraining()}
        result = train({key: made[key] for key in order}, steps=3)
        moved = {n for n in values_differ(start, result.parameters) if n in start}
        assert moved == {"heads.label.weight", "heads.label.bias"}
        assert result.parameters["heads.label.others.weight"].shape == (2, 16)


def test_a_task_of_one_group_keeps_its_head():
    tasks = {"shape": 3, "colour": 2}
    recipe = train({"bags": BAGS(thresholds=[9])}, tasks=tasks, steps=1).recipe
    counts = {task: recipe.statistics.counts(task).tolist() for task in tasks}
    kinds = {task: isinstance(recipe.network.heads[task], GroupedHead) for task in tasks}
    assert kinds == {t: min(n) < 9 <= max(n) for t, n in counts.items()}
    assert sorted(kinds.values()) == [False, True]


def test_data_without_two_groups_are_refused():
    line = r"bags.thresholds=\[10, 100, 1000\]: all classes are in one group: they have 7 to 9 of"
    with pytest.raises(UserError, match=line):
        build({"bags": BAGS()}, Setup())
    with pytest.raises(UserError, match="expected ascending counts"):
        BAGS(thresholds=[10, 10])
    network = Setup().network()
    network.heads["label"] = nn.Sequential(nn.Linear(16, 3))
    with pytest.raises(UserError, match="head of task 'label' is not linear"):
        build({"bags": BAGS(**BY_COUNT)}, Setup(), network)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("fixmatch", FixMatch()),
        ("balanced_softmax", BalancedSoftmax()),
        ("class_balanced_loss", ClassBalancedLoss()),
        ("mixup", Mixup()),
        ("fgm", FGM()),
        ("focal_loss", FocalLoss()),
    ],
)
def test_what_reads_logits_as_one_softmax_is_refused(key, other):
    with pytest.raises(UserError, match=r"bags .*cannot be combined|bags .* both own"):
        build({"bags": BAGS(**BY_COUNT), key: other}, Setup())
