import pytest
import torch

from methods.metric_learning.proxies import Proxies
from methods.metric_learning.proxy_anchor import ProxyAnchor
from recipes.optimization.build import parameter_groups
from recipes.optimization.optimizers import SGD
from tests.support.harness import Setup, build, train
from tests.support.metric_batches import PROXIES, X, Y, batch
from tests.support.metric_batches import proxy_anchor_loss as loss


def test_worked_example():
    assert float(loss(X, Y, PROXIES)) == pytest.approx(25.0427447075, abs=1e-9)
    # class 2 is absent: the first mean is over those present, the second over all
    assert float(loss(X[:5], Y[:5], PROXIES)) == pytest.approx(25.0427451661, abs=1e-9)


def test_a_single_class_has_nothing_to_repel():
    cosine = X @ PROXIES[:1].T
    expected = torch.log1p(torch.exp(-32 * (cosine[:, 0] - 0.1)).sum())
    torch.testing.assert_close(loss(X, torch.zeros(6, dtype=torch.long), PROXIES[:1]), expected)


def test_missing_labels_are_as_if_the_samples_were_not_there():
    x, labels = batch(2)
    labels[::3] = -1
    proxies, kept = batch(3, rows=5)[0], labels >= 0
    torch.testing.assert_close(loss(x, labels, proxies), loss(x[kept], labels[kept], proxies))


def test_proxies_have_a_rate_of_their_own_and_no_decay():
    recipe = build({"proxy_anchor": ProxyAnchor(proxy_lr=30.0, dim=4)}, Setup())
    vectors = recipe.method_modules["proxy_anchor"]["label"].vectors
    assert vectors.shape == (3, 4)
    (group,) = [
        g
        for g in parameter_groups(recipe, SGD(lr=0.01), [])
        if any(p is vectors for p in g["params"])
    ]
    assert (len(group["params"]), group["lr"], group["weight_decay"]) == (
        1,
        pytest.approx(0.3),
        0.0,
    )


def test_proxies_start_as_the_authors_do():
    torch.manual_seed(0)
    assert float(Proxies(200, 64, 1.0).vectors.detach().std()) == pytest.approx(
        (2 / 200) ** 0.5, rel=0.05
    )


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_gathers_samples_at_their_proxies(kind):
    result = train({"proxy_anchor": ProxyAnchor(dim=8, proxy_lr=1.0)}, kind=kind, steps=40, lr=0.02)
    assert result.history[-1]["train/proxy_anchor"] < 0.8 * result.history[0]["train/proxy_anchor"]


def test_two_tasks_have_proxies_and_terms_of_their_own():
    result = train(
        {"proxy_anchor": ProxyAnchor(dim=8, proxy_lr=1.0)}, tasks={"a": 3, "b": 2}, missing=True
    )
    assert {"train/proxy_anchor/a", "train/proxy_anchor/b"} <= result.history[-1].keys()
    assert [len(result.recipe.method_modules["proxy_anchor"][t].vectors) for t in "ab"] == [3, 2]
