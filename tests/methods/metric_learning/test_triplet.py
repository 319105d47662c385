from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from foundation import devices
from foundation.errors import UserError
from methods.metric_learning import blocks as blocks_module
from methods.metric_learning import mining as mining_module
from methods.metric_learning.blocks import Block
from methods.metric_learning.triplet import Triplet, all_triplets
from tests.support.comparison import same, value_and_gradients
from tests.support.harness import train
from tests.support.metric_batches import X, Y, batch, of

PLAIN = {"squared": False, "normalize": False}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reduction": "mean_all"}, 0.3422718733),
        ({}, 0.7415890587),
        ({"squared": False, "margin": 0.05}, 0.4420156829),
        ({**PLAIN, "mining": "batch_hard"}, 0.6796069316),
        ({**PLAIN, "mining": "batch_hard", "soft": True, "margin": 0.0}, 0.9664293787),
        ({"mining": "semi_hard"}, 0.0065831957),
        ({"mining": "semi_hard_all", "squared": False}, 0.0296582651),
    ],
    ids=str,
)
def test_worked_examples(settings, expected):
    assert float(of(Triplet(**settings), X, Y)) == pytest.approx(expected, abs=1e-9)


def test_twelve_of_twenty_six_are_active():
    assert Triplet().loss(X, Y, "label", None)[1]["active"] == pytest.approx(12 / 26)


def by_loops(x: torch.Tensor, labels: torch.Tensor, method: Triplet) -> torch.Tensor:
    """Every triplet by itself."""
    d = (x[:, None] - x).square().sum(2)
    d = d if method.squared else d.clamp_min(1e-30).sqrt()
    terms, n = [], len(x)
    for a in range(n):
        others = [j for j in range(n) if labels[j] != labels[a] and labels[j] >= 0]
        for p in range(n):
            if p == a or labels[p] != labels[a] or labels[a] < 0 or not others:
                continue
            if method.mining == "semi_hard":
                farther = [j for j in others if d[a, j] > d[a, p]]
                j = (
                    min(farther, key=lambda j: d[a, j])
                    if farther
                    else max(others, key=lambda j: d[a, j])
                )
                z = d[a, p] - d[a, j] + method.margin
                terms.append(F.softplus(z) if method.soft else z.clamp_min(0))
                continue
            for j in others:
                if (
                    method.mining == "semi_hard_all"
                    and not d[a, p] < d[a, j] < d[a, p] + method.margin
                ):
                    continue
                terms.append((d[a, p] - d[a, j] + method.margin).clamp_min(0))
    values = torch.stack(terms)
    nonzero = method.mining != "semi_hard" and method.reduction != "mean_all"
    return values.sum() / max(1, int((values > 0).sum()) if nonzero else len(values))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reduction": "mean_all"},
        {"squared": False, "margin": 0.7},
        {"mining": "semi_hard", "margin": 1.5},
        {"mining": "semi_hard", "soft": True},
        {"mining": "semi_hard_all", "margin": 2.0},
    ],
    ids=str,
)
def test_equals_every_triplet_by_itself(settings, seed):
    x, labels = batch(seed)
    labels[::5] = -1
    method = Triplet(**settings)
    same(lambda z: of(method, z, labels), lambda z: by_loops(z, labels, method), x)


def test_a_collapsed_embedding_costs_the_margin_and_has_no_gradient():
    x = torch.ones(6, 2, dtype=torch.float64, requires_grad=True)
    value = of(Triplet(), x, Y)
    value.backward()
    assert float(value.detach()) == pytest.approx(0.2)
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_triplets_whose_sum_rounds_to_zero_are_still_active():
    """Distances of 100 and a few units in the last place of float32: both sums are rounded, and so
    may be equal."""
    unit, rounded = 2.0**-17, 0
    for seed in range(200):
        steps = torch.randint(0, 3, (2, 3, 1), generator=torch.Generator().manual_seed(seed))
        positive, negative = 100 + unit * (steps + torch.tensor([1, 0])[:, None, None])
        one = torch.ones(3, 1, dtype=torch.int64)
        loss = all_triplets(
            Block(positive, one.bool(), one, negative.clone(), one[:, 0], negative.clone), 0.0
        )
        active = int((positive > negative).sum())
        assert int(loss.counts[0]) == active and bool(loss.active) == bool(active)
        rounded += bool(active) and not float(loss.value)
    assert rounded


@pytest.mark.parametrize("mining", ["all", "batch_hard", "semi_hard", "semi_hard_all"])
def test_a_batch_without_triplets_costs_nothing_and_has_a_gradient(mining):
    x = torch.randn(4, 3, requires_grad=True)
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0], [-1, -1, -1, -1]):
        value = of(Triplet(mining=mining), x, torch.tensor(labels))
        value.backward()
        assert value == 0 and torch.equal(x.grad, torch.zeros_like(x))


def test_soft_needs_few_triplets():
    with pytest.raises(
        UserError, match=r"methods\.triplet\.soft=true: .* expected mining=batch_hard or semi_hard"
    ):
        Triplet(soft=True)


@pytest.mark.parametrize("mining", ["all", "batch_hard", "semi_hard", "semi_hard_all"])
def test_few_positives_many_and_unknown_numbers_of_them_are_one_loss(mining, monkeypatch):
    """By passes over a row, by sorting it, and with shapes that do not depend on the labels, as on
    a device that may not be waited for."""
    x, labels = batch(7)
    memory, stored = batch(8, rows=31)
    labels[::5], stored[::4] = -1, -1
    method = Triplet(1.5, mining)
    plain = value_and_gradients(lambda z, r: method.between(z, labels, r, stored)[0], x, memory)
    for setting in ((mining_module, "PASSES", 0), (devices, "readable", lambda tensor: False)):
        monkeypatch.setattr(*setting)
        found = value_and_gradients(lambda z, r: method.between(z, labels, r, stored)[0], x, memory)
        torch.testing.assert_close(found, plain)


def test_rows_of_another_size_than_columns():
    """Anchors against a memory: the sum over all triplets of four by nine."""
    x, labels = batch(6)
    anchors, memory = slice(0, 4), slice(4, 13)
    d = (x[anchors][:, None] - x[memory]).square().sum(2)
    positive = labels[anchors, None] == labels[memory]
    triplets = positive[:, :, None] & ~positive[:, None, :]
    terms = (d[:, :, None] - d[:, None, :] + 0.2).clamp_min(0) * triplets
    method = Triplet(reduction="mean_all")
    found = method.between(x[anchors], labels[anchors], x[memory], labels[memory])[0]
    torch.testing.assert_close(found, terms.sum() / triplets.sum())


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_separates_the_classes(kind):
    result = train({"triplet": Triplet(dim=8, weight=3.0)}, kind=kind, steps=40, lr=0.1)
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in result.history]
    assert gap[-1] > gap[0] + 0.1
    assert 0 <= result.history[-1]["train/active"] < result.history[0]["train/active"] <= 1


def run_at(step: int) -> SimpleNamespace:
    return SimpleNamespace(seed=0, trainer=SimpleNamespace(global_step=step))


def drawn(x: torch.Tensor, labels: torch.Tensor, step: int, **settings: Any) -> torch.Tensor:
    method = Triplet(mining="distance_weighted", **settings)
    return method.loss(x, labels, "label", run_at(step))[0]


def test_a_negative_beyond_the_farthest_distance_is_never_drawn():
    """Of the fixture's first sample sample 3 alone is near enough; the others of its row are drawn
    equally where none is."""
    distance = torch.cdist(X, X)
    weights = mining_module.distance_weights(distance[:1, 3:], dim=8)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]
    far = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    assert float(drawn(far, labels, 0, margin=5.0)) == pytest.approx(1.0)


def test_draws_follow_the_density_of_distances():
    """Weights are 1/q(D), cut off below a distance of 0.5."""
    distance = torch.tensor([[0.1, 0.5, 0.9, 1.3, 1.5]], dtype=torch.float64)
    weights = mining_module.distance_weights(distance, dim=16)[0]
    q = [d**14 * (1 - d**2 / 4) ** 6.5 for d in (0.5, 0.5, 0.9, 1.3)]
    expected = torch.tensor([q[0] / each for each in q] + [0.0], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    block = Block(
        torch.zeros(1, 20000, dtype=torch.float64),
        *[torch.ones(1, 20000)] * 2,
        distance,
        None,
        None,
    )
    source = torch.Generator().manual_seed(0)
    places = mining_module.draw_by_distance(distance, block, 4, source)
    shares = torch.bincount(places[0], minlength=5) / 20000
    wanted = mining_module.distance_weights(distance, 4)[0]
    torch.testing.assert_close(shares.double(), wanted / wanted.sum(), atol=0.02, rtol=0)


def test_draws_are_those_of_the_step_and_the_same_in_many_blocks(monkeypatch):
    x, labels = batch(2)
    x = F.normalize(x, dim=1)
    first = drawn(x, labels, 3)
    assert torch.equal(drawn(x, labels, 3), first) and not torch.equal(drawn(x, labels, 4), first)
    monkeypatch.setattr(blocks_module, "BLOCK", {"cpu": 5 * len(x)})
    torch.testing.assert_close(drawn(x, labels, 3), first)


def test_distance_weighted_mining_needs_unit_vectors():
    with pytest.raises(UserError, match=r"unit sphere; expected methods\.triplet\.normalize=true"):
        Triplet(mining="distance_weighted", normalize=False)


def test_a_run_draws_by_distance():
    result = train({"triplet": Triplet(mining="distance_weighted", dim=8)}, steps=20, lr=0.1)
    assert result.history[-1]["train/triplet"] < result.history[0]["train/triplet"]
