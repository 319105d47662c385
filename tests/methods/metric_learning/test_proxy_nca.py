import pytest
import torch

from methods.metric_learning.proxies import Proxies
from methods.metric_learning.proxy_nca import ProxyNCA, proxy_nca
from tests.support.harness import train
from tests.support.metric_batches import PROXIES, X, Y, batch


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
