import pytest
import pytorch_lightning as pl
import torch

from foundation.errors import UserError
from methods.metric_learning.cluster_table import ClusterTable, losses_of_clusters
from methods.metric_learning.magnet import Magnet, magnet
from tests.support.comparison import same
from tests.support.lab import trial
from tests.support.metric_batches import X, Y, batch
from tests.support.tiny_runs import run_of

OF_FIXTURE = torch.tensor([0, 1, 3, 4])
CLUSTERS = torch.tensor([0, 0, 1, 1])


def four_clusters(seed: int, dim: int = 6) -> tuple[torch.Tensor, ...]:
    """x, labels and clusters of four clusters of four samples, two of them of class 0."""
    x = batch(seed, rows=16, dim=dim)[0]
    clusters = torch.arange(4).repeat_interleave(4)
    return x, torch.tensor([0, 0, 1, 2])[clusters], clusters


@pytest.mark.parametrize(("hinge", "expected"), [(True, 0.1087605852), (False, -2.0423922229)])
def test_worked_numbers(hinge, expected):
    losses = magnet(X[OF_FIXTURE], Y[OF_FIXTURE], CLUSTERS, 2, 1.0, hinge)
    assert float(losses.mean()) == pytest.approx(expected, abs=1e-9)


def test_dividing_by_the_squared_variance_closes_the_hinge():
    """The form of a popular port: its clusters seem infinitely far, and the fixture costs 0."""
    x = X[OF_FIXTURE]
    variance = 0.1867691264
    means = torch.stack([x[:2].mean(0), x[2:].mean(0)])
    d = (x[:, None] - means).square().sum(2)
    own = d.gather(1, CLUSTERS[:, None]).squeeze(1)
    assert float(own.sum() / 3) == pytest.approx(variance, abs=1e-9)
    other = d.gather(1, 1 - CLUSTERS[:, None]).squeeze(1)
    assert not (own / (2 * variance**2) + 1 - other / (2 * variance**2)).clamp_min(0).any()


def plain(x: torch.Tensor, labels: torch.Tensor, clusters: torch.Tensor, alpha: float, hinge: bool):
    """The mean loss, sample by sample."""
    means = [x[clusters == m].mean(0) for m in range(4)]
    own = [(x[i] - means[clusters[i]]).square().sum() for i in range(len(x))]
    variance = sum(own) / (len(x) - 1)
    losses = []
    for i in range(len(x)):
        near = torch.exp(-own[i] / (2 * variance))
        others = [
            torch.exp(-(x[i] - means[m]).square().sum() / (2 * variance))
            for m in range(4)
            if labels[clusters == m][0] != labels[i]
        ]
        loss = alpha - torch.log(near / sum(others))
        losses.append(loss.clamp_min(0) if hinge else loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("hinge", [True, False])
def test_it_is_the_formula_with_gradients_through_means_and_variance(hinge):
    x, labels, clusters = four_clusters(0)
    same(
        lambda z: magnet(z, labels, clusters, 4, 0.5, hinge).mean(),
        lambda z: plain(z, labels, clusters, 0.5, hinge),
        x,
    )


@pytest.mark.parametrize("scale", [1e-2, 3.0, 100.0])
def test_the_scale_of_embeddings_does_not_matter(scale):
    x, labels, clusters = four_clusters(1)
    expected = magnet(x, labels, clusters, 4, 1.0)
    torch.testing.assert_close(magnet(scale * x, labels, clusters, 4, 1.0), expected)


def test_a_large_margin_is_added():
    x, labels, clusters = four_clusters(2)
    found = [magnet(x, labels, clusters, 4, alpha).mean() - alpha for alpha in (100.0, 1000.0)]
    torch.testing.assert_close(*found)


def test_clusters_of_the_same_class_do_not_repel():
    x, labels, clusters = four_clusters(3)
    merged = magnet(x, labels * 0, clusters, 4, 1.0)
    assert not merged.any(), "without another class there is nothing to compare"
    leaf = x.clone().requires_grad_()
    magnet(leaf, labels * 0, clusters, 4, 1.0).sum().backward()
    assert not leaf.grad.any()


def test_samples_without_label_are_as_if_they_were_not_there():
    x, labels, clusters = four_clusters(4)
    labels[::4] = -1
    kept = labels >= 0
    found = magnet(x, labels, clusters, 4, 1.0)
    assert not found[~kept].any()
    torch.testing.assert_close(found[kept], magnet(x[kept], labels[kept], clusters[kept], 4, 1.0))
    nothing = magnet(x, torch.full_like(labels, -1), clusters, 4, 1.0)
    assert not nothing.any()


@pytest.mark.parametrize("collapsed", ["all", "clusters"])
def test_equal_samples_have_finite_gradients(collapsed):
    _, labels, clusters = four_clusters(5)
    x = torch.ones(16, 3) if collapsed == "all" else torch.eye(4)[clusters]
    x.requires_grad_()
    loss = magnet(x, labels, clusters, 4, 1.0)
    loss.sum().backward()
    assert loss.isfinite().all() and x.grad.isfinite().all()
    assert bool(loss.any()) == (collapsed == "all")


def test_free_embeddings_become_clusters():
    x, labels, clusters = four_clusters(7, dim=2)
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], 0.05)
    assert magnet(x, labels, clusters, 4, 1.0).mean() > 1
    for _ in range(200):
        optimizer.zero_grad()
        magnet(x, labels, clusters, 4, 1.0).mean().backward()
        optimizer.step()
    assert magnet(x, labels, clusters, 4, 1.0).mean() < 0.05
    means = torch.stack([x[clusters == m].mean(0) for m in range(4)])
    assert torch.equal(labels[torch.cdist(x, means).argmin(1) * 4], labels)


def test_a_batch_has_its_clusters_one_after_the_other():
    method = Magnet(samples_per_cluster=4, alpha=0.3)
    x, labels, clusters = four_clusters(6)
    expected = magnet(x, labels, clusters, 4, 0.3).mean()
    torch.testing.assert_close(method.loss(x, labels, "label", None)[0], expected)


def test_mean_losses_are_of_samples_that_were_seen():
    losses = torch.tensor([1.0, 3.0, 9.0, 5.0, 7.0])
    cluster = torch.tensor([0, 0, 0, 2, 3])
    seen = torch.tensor([True, True, False, True, False])
    found = losses_of_clusters(losses, cluster, seen, 4)
    # of cluster 1 and 3 none was seen: the mean of 2 and 5
    assert found.tolist() == [2, 3.5, 5, 3.5]
    assert losses_of_clusters(losses, cluster, seen & False, 4).tolist() == [0, 0, 0, 0]


def test_the_table_keeps_what_an_order_needs():
    table = ClusterTable(5, 9, 2, 2, 3)
    assert table.newest() is None
    index = torch.tensor([8, 1, 3, 0, 5])
    cluster = torch.tensor([1, 1, 2, 3, -1])
    x = torch.arange(15.0).view(5, 3)
    table.losses.write(torch.tensor([1, 3]), torch.tensor([2.0, 4.0]))
    table.renew(x, cluster, index)
    found = table.newest()
    assert found.cluster.tolist() == cluster.tolist() and found.class_of.tolist() == [0, 0, 1, 1]
    assert found.centers[1].tolist() == [1.5, 2.5, 3.5]
    assert found.mean_loss.tolist() == [3, 2, 4, 3]
    assert table.newest() is found, "read from the device once"
    table.renew(x, cluster.flip(0), index)
    assert table.newest().cluster.tolist() == [-1, 3, 2, 1, 1]


def test_a_loaded_table_is_the_newest():
    table, other = ClusterTable(2, 2, 2, 1, 3), ClusterTable(2, 2, 2, 1, 3)
    other.renew(torch.eye(2, 3), torch.tensor([0, 1]), torch.arange(2))
    assert table.newest() is None
    table.load_state_dict(other.state_dict())
    assert table.newest().cluster.tolist() == [0, 1]


# -- in a run --------------------------------------------------------------------------------------
class Batches(pl.Callback):
    """The clusters, in the newest table, of each batch's samples, [steps, M, D], and how often the
    table changed."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.tables: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, recipe, batch, number) -> None:
        table = recipe.method_modules["magnet"].cluster
        part = trainer.datamodule.parts["labeled"]
        position = {int(index): place for place, index in enumerate(part.index)}
        places = torch.tensor([position[int(index)] for index in batch["labeled"]["index"]])
        self.seen.append(table[places].view(4, 4).clone())
        if not self.tables or not torch.equal(self.tables[-1], table):
            self.tables.append(table.clone())


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_batch_is_of_the_newest_clusters(workers):
    """Also where workers read ahead. After the first survey a refresh follows every three steps."""
    batches = Batches()
    changes = {"methods.magnet.refresh": 3, "trainer.max_steps": 10, "data.num_workers": workers}
    trial(run_of("image", "magnet", **changes), [batches])
    assert len(batches.seen) == 10 and len(batches.tables) == 4
    for clusters in batches.seen:
        assert (clusters >= 0).all() and torch.equal(clusters.amin(1), clusters.amax(1))
        assert len(clusters[:, 0].unique()) == 4


def test_clusters_are_drawn_by_the_losses_of_their_samples():
    outcome = trial(run_of("image", "magnet", **{"trainer.max_steps": 5}))
    table = outcome.recipe.method_modules["magnet"]
    assert (table.mean_loss > 0).any(), "of the survey after step 4"
    seen = table.losses.writes > 0
    assert seen.any() and (table.losses.table[seen] >= 0).all()
    labeled = outcome.trainer.datamodule.parts["labeled"].index
    assert int(seen.sum()) == int(seen[labeled].sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 8}, "data.batch_size=8: a batch has methods.magnet.clusters_in_batch"),
        ({"methods.magnet.task": "lable"}, "methods.magnet.task=lable: there is no such task"),
        (
            {"methods.magnet.clusters_in_batch": 40, "data.batch_size": 160},
            "methods.magnet.clusters_in_batch=40: the labeled data has 10 classes",
        ),
    ],
    ids=["batch", "task", "clusters"],
)
def test_what_cannot_be_is_said_in_one_line(changes, message):
    with pytest.raises(UserError) as refusal:
        trial(run_of("image", "magnet", **changes))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
