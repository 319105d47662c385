import pytest
import torch
from sklearn.cluster import KMeans

from recipes.services.clustering import kmeans_within


def blobs(groups: int = 3, clusters: int = 2, rows: int = 8) -> tuple[torch.Tensor, ...]:
    """x, the group and the blob of each row; the blobs of a group are far apart, and those of
    different groups lie upon each other."""
    source = torch.Generator().manual_seed(1)
    group = torch.arange(groups).repeat_interleave(clusters * rows)
    blob = torch.arange(clusters).repeat_interleave(rows).repeat(groups)
    x = 0.1 * torch.randn(len(group), 4, generator=source)
    x[:, 0] += 10 * blob
    order = torch.randperm(len(x), generator=source)
    return x[order], group[order], blob[order]


def test_every_group_is_clustered_by_itself():
    x, group, blob = blobs()
    found = kmeans_within(x, group, 2)
    assert torch.equal(found // 2, group)
    for g in range(3):
        pairs = set(zip(found[group == g].tolist(), blob[group == g].tolist(), strict=True))
        assert len(pairs) == 2, "a cluster is a blob"


@pytest.mark.parametrize("k", [2, 5])
def test_it_is_as_good_as_scikit_learn(k):
    source = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=source)
    group = torch.randint(3, (120,), generator=source)
    found = kmeans_within(x, group, k, steps=100)
    for g in range(3):
        own, clusters = x[group == g], found[group == g]
        means = torch.stack([own[clusters == c].mean(0) for c in range(g * k, g * k + k)])
        within = float((own - means[clusters - g * k]).square().sum())
        theirs = [KMeans(k, n_init=1, random_state=seed).fit(own).inertia_ for seed in range(8)]
        assert within <= 1.05 * max(theirs)


def test_clusters_are_those_of_the_nearest_mean():
    x, group, _ = blobs()
    x = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = kmeans_within(x, group, 4, steps=100)
    means = torch.stack([x[found == c].mean(0) for c in range(12)])
    for g in range(3):
        own = group == g
        nearest = torch.cdist(x[own], means[4 * g : 4 * g + 4]).argmin(1) + 4 * g
        assert torch.equal(nearest, found[own])


def test_rows_without_a_group_are_in_no_cluster_and_change_nothing():
    x, group, _ = blobs()
    some = group.clone()
    some[::5] = -1
    found = kmeans_within(x, some, 2)
    assert torch.equal(found == -1, some == -1)
    assert torch.equal(found[some >= 0], kmeans_within(x[some >= 0], some[some >= 0], 2))
    assert kmeans_within(x, torch.full_like(group, -1), 2).unique().tolist() == [-1]


def test_few_or_equal_rows_give_fewer_clusters():
    x = torch.tensor([[0.0], [5.0], [1.0], [1.0], [1.0]])
    found = kmeans_within(x, torch.tensor([0, 0, 2, 2, 2]), 3)
    assert len(found[:2].unique()) == 2 and len(found[2:].unique()) == 1
    assert torch.equal(found // 3, torch.tensor([0, 0, 2, 2, 2]))


def test_draws_follow_from_the_seed():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(3))
    group = torch.zeros(60, dtype=torch.int64)
    assert torch.equal(kmeans_within(x, group, 6), kmeans_within(x, group, 6))
    assert not torch.equal(kmeans_within(x, group, 6), kmeans_within(x, group, 6, seed=1))


def test_further_centers_are_drawn_by_their_squared_distance():
    """Rows at 0 (twenty of them), 1 and 3: after a first center at 0, the next is 3 nine times as
    often as 1."""
    x = torch.tensor([0.0] * 20 + [1.0, 3.0])[:, None].repeat(400, 1)
    group = torch.arange(400).repeat_interleave(22)
    # no iteration: the clusters are those of the drawn centers
    first = kmeans_within(x, group, 2, steps=1)
    of_one = first.view(400, 22)[:, 20]
    of_zero, of_three = first.view(400, 22)[:, 0], first.view(400, 22)[:, 21]
    alone = (of_three != of_zero) & (of_one == of_zero)
    # 0.87; 0.73 if distances were not squared
    assert 0.81 < float(alone.double().mean()) < 0.93
