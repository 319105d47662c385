from dataclasses import replace

import pytest
import torch

from datamodules.cluster_order import ClusterOrder, Clusters, MakeClusterOrder
from foundation.errors import UserError

LABELS = torch.arange(3).repeat_interleave(20)


def six_clusters() -> Clusters:
    """Two clusters of ten samples in each of three classes, on a line: 0, 1 | 1.2, 9 | 2, 3."""
    cluster = torch.arange(6).repeat_interleave(10)
    centers = torch.tensor([0.0, 1.0, 1.2, 9.0, 2.0, 3.0])[:, None]
    losses = torch.tensor([0.0, 3.0, 0.0, 0.0, 1.0, 0.0])
    return Clusters(cluster, centers, torch.arange(6) // 2, losses)


def order(clusters=None, m=3, d=4, sampling="losses", seed=0) -> ClusterOrder:
    return ClusterOrder(clusters or six_clusters(), m, d, sampling, seed, "order", "labeled")


def of_batches(made: ClusterOrder, number: int) -> torch.Tensor:
    """[number, M, D] clusters of the samples."""
    rows = made.take(0, number * made.length)
    return made.clusters.cluster[rows].view(number, made.clusters_in_batch, -1)


def test_a_batch_is_clusters_of_different_samples():
    found = of_batches(order(), 20)
    assert torch.equal(found[:, :, 0], found[:, :, -1])
    for row in order().take(0, 240).view(20, 12):
        assert len(row.unique()) == 12


def test_the_first_cluster_is_drawn_by_its_loss_and_the_others_are_its_nearest_impostors():
    found = of_batches(order(), 400)[:, :, 0]
    assert set(map(tuple, found.tolist())) == {(1, 2, 4), (4, 2, 1)}
    assert 0.7 < float((found[:, 0] == 1).double().mean()) < 0.8


def test_without_losses_the_first_is_drawn_uniformly():
    clusters = replace(six_clusters(), mean_loss=torch.zeros(6))
    first = of_batches(order(clusters), 600)[:, 0, 0]
    assert torch.bincount(first, minlength=6).min() > 70


def test_uniform_draws_all_clusters_whatever_their_loss():
    found = of_batches(order(sampling="uniform"), 400)[:, :, 0]
    assert all(len(row.unique()) == 3 for row in found)
    assert torch.bincount(found.flatten(), minlength=6).min() > 150


def test_too_few_impostors_are_followed_by_clusters_of_the_same_class_and_repeats():
    row = of_batches(order(m=8), 1)[0, :, 0].tolist()
    assert row[0] in (1, 4)
    assert row[:6] == ([1, 2, 4, 5, 3, 0] if row[0] == 1 else [4, 2, 1, 0, 3, 5])
    assert row[6:] == row[:2]


def test_empty_clusters_are_not_drawn_and_small_ones_repeat_their_samples():
    cluster = torch.tensor([0] * 30 + [3] * 2 + [4] * 28)
    made = order(replace(six_clusters(), cluster=cluster, mean_loss=torch.zeros(6)))
    rows = made.take(0, 1200).view(100, 3, 4)
    assert cluster[rows].unique().tolist() == [0, 3, 4]
    for row in rows.flatten(0, 1):
        assert len(row.unique()) == (2 if int(cluster[row[0]]) == 3 else 4)


def test_a_batch_depends_on_its_number_and_the_clusters_alone():
    whole = order().take(0, 240)
    for start, stop in ((120, 144), (5, 17), (228, 240), (30, 30)):
        assert torch.equal(order().take(start, stop), whole[start:stop])
    assert not torch.equal(order(seed=1).take(0, 240), whole)
    made = order(replace(six_clusters(), mean_loss=torch.eye(6)[3]))
    assert not torch.equal(made.take(0, 12), whole[:12])
    made.renew(six_clusters())
    assert torch.equal(made.take(0, 240), whole), "what was read before leaves nothing"


def make(batch_size=12, labels=LABELS, **settings):
    maker = MakeClusterOrder(
        **{"clusters": 2, "clusters_in_batch": 3} | settings, samples_per_cluster=4
    )
    return maker({"label": labels}, batch_size, 100, 0, "labeled")


def test_before_clusters_are_known_classes_are_the_clusters():
    labels = LABELS.clone()
    labels[::7] = -1
    rows = make(labels=labels).take(0, 120).view(10, 3, 4)
    assert torch.equal(labels[rows].sort(1).values, torch.arange(3)[None, :, None].expand(10, 3, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 16},
            "data.batch_size=16: a batch has methods.magnet.clusters_in_batch=3 clusters with "
            "methods.magnet.samples_per_cluster=4 samples each; expected data.batch_size=12",
        ),
        (
            {"clusters_in_batch": 7, "batch_size": 28},
            "methods.magnet.clusters_in_batch=7: the labeled data has 3 classes, and with "
            "methods.magnet.clusters=2 at most 6 clusters; expected at most 6",
        ),
        ({"task": "lable"}, "methods.magnet.task=lable: there is no such task; did you mean"),
    ],
    ids=["batch", "clusters", "task"],
)
def test_what_cannot_be_is_said_in_one_line(settings, message):
    with pytest.raises(UserError) as refusal:
        make(**settings)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
