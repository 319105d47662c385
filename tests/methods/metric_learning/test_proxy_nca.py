import pytest
import torch

from methods.metric_learning.proxies import Proxies, sample_of_each_class
from methods.metric_learning.proxy_nca import ProxyNCA, proxy_nca
from tests.support.harness import train
from tests.support.lab import trial
from tests.support.metric_batches import PROXIES, X, Y, batch
from tests.support.tiny_runs import quiet_run_of


@pytest.mark.parametrize(("scale", "expected"), [(1.0, -0.6737778812), (3.0, -7.1497275749)])
def test_worked_numbers(scale, expected):
    assert float(proxy_nca(X, Y, PROXIES, scale)) == pytest.approx(expected, abs=1e-9)


def test_with_two_classes_it_is_the_difference_of_distances():
    x, labels = batch(1, classes=2)
    proxies = batch(2, rows=2)[0]
    x_hat, p_hat = (torch.nn.functional.normalize(v, dim=1) for v in (x, proxies))
    d = (x_hat[:, None] - p_hat).square().sum(2)
    own = d.gather(1, labels[:, None]) - d.gather(1, 1 - labels[:, None])
    torch.testing.assert_close(proxy_nca(x, labels, proxies, 1.0), own.mean())


def test_missing_labels_are_as_if_the_samples_were_not_there():
    x, labels = batch(2)
    labels[::3] = -1
    proxies, kept = batch(3, rows=5)[0], labels >= 0
    found = proxy_nca(x, labels, proxies, 3.0)
    torch.testing.assert_close(found, proxy_nca(x[kept], labels[kept], proxies, 3.0))
    nothing = proxy_nca(x.requires_grad_(), torch.full_like(labels, -1), proxies, 3.0)
    nothing.backward()
    assert nothing == 0 and not x.grad.any()


def test_proxies_start_as_the_authors_do():
    assert float(Proxies(200, 64, 1.0, "normal").vectors.detach().std()) == pytest.approx(
        1 / 8, rel=0.05
    )


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_gathers_samples_at_their_proxies(kind):
    method = ProxyNCA(dim=8, proxy_lr=1.0)
    result = train({"proxy_nca": method}, kind=kind, steps=40, lr=0.02)
    shown = [row["train/proxy_nca"] for row in result.history]
    assert shown[-1] < shown[0] - 1


def test_a_proxy_takes_the_direction_of_a_sample_of_its_class():
    x, labels = batch(4, rows=40, classes=5)
    labels[labels == 3] = -1
    proxies = Proxies(5, 6, 1.0, "normal").double()
    before = proxies.vectors.detach().clone()
    proxies.move_to(x, labels, torch.Generator().manual_seed(0))
    after = proxies.vectors.detach()
    torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1))
    assert torch.equal(after[3], before[3]), "a class without samples keeps its proxy"
    cosine = torch.nn.functional.normalize(after, dim=1) @ torch.nn.functional.normalize(x, dim=1).T
    for c in (0, 1, 2, 4):
        assert float(cosine[c, labels == c].max()) == pytest.approx(1)
        assert float(cosine[c, labels != c].max()) < 1 - 1e-6


def test_samples_of_a_class_are_drawn_uniformly():
    labels = torch.tensor([1, -1, 0, 1, 1, 1])
    drawn = []
    for seed in range(400):
        classes, rows = sample_of_each_class(labels, torch.Generator().manual_seed(seed))
        assert classes.tolist() == [0, 1] and rows[0] == 2
        drawn.append(int(rows[1]))
    counts = torch.bincount(torch.tensor(drawn), minlength=6)
    assert counts[[0, 3, 4, 5]].min() > 70 and counts.sum() == counts[[0, 3, 4, 5]].sum()


def test_proxies_start_at_samples_of_the_run():
    """At a rate of 0 they stay where they start."""
    changes = {"methods.proxy_nca.init": "sample", "trainer.max_steps": 1, "optimizer.lr": 0.0}
    outcome = trial(quiet_run_of("image", "proxy_nca", **changes))
    proxies = outcome.recipe.method_modules["proxy_nca"]["label"].vectors.detach()
    data, recipe = outcome.trainer.datamodule, outcome.recipe.eval()
    part = data.parts["labeled"]
    batch_of_all = part.fetch(torch.arange(len(part)))
    view = data.make_view(batch_of_all, "raw")
    with torch.no_grad():
        x = recipe.predict_output(recipe.network.embed(view)).logits["embedding"]
    cosine = torch.nn.functional.normalize(proxies, dim=1) @ x.T
    labels = part.targets["label"]
    own = torch.stack([cosine[c, labels == c].max() for c in range(10)])
    torch.testing.assert_close(own, torch.ones(10), atol=1e-3, rtol=0)
