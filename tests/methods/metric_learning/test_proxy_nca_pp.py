import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from foundation.errors import UserError
from methods.metric_learning.proxy_nca_pp import ProxyNCAPP, proxy_nca_pp
from methods.metric_learning.triplet import Triplet
from tests.support.harness import Setup, build, train
from tests.support.metric_batches import PROXIES, X, Y, batch


@pytest.mark.parametrize(("temperature", "expected"), [(1 / 9, 1.4346719527), (1.0, 0.5064426667)])
def test_worked_numbers(temperature, expected):
    found = proxy_nca_pp(X, Y, PROXIES, temperature)
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_it_is_a_softmax_over_cosines_at_half_the_temperature():
    x, labels = batch(1)
    proxies = batch(2, rows=5)[0]
    logits = normalize(x, dim=1) @ normalize(proxies, dim=1).T * 18
    found = proxy_nca_pp(x, labels, proxies, 1 / 9, smoothing=0.1)
    torch.testing.assert_close(found, cross_entropy(logits, labels, label_smoothing=0.1))


def test_missing_labels_are_as_if_the_samples_were_not_there():
    x, labels = batch(2)
    labels[::3] = -1
    proxies, kept = batch(3, rows=5)[0], labels >= 0
    found = proxy_nca_pp(x, labels, proxies, 1 / 9, 0.1)
    torch.testing.assert_close(found, proxy_nca_pp(x[kept], labels[kept], proxies, 1 / 9, 0.1))
    nothing = proxy_nca_pp(x.requires_grad_(), torch.full_like(labels, -1), proxies, 1 / 9, 0.1)
    nothing.backward()
    assert nothing == 0 and not x.grad.any()


def test_the_embedding_is_of_normalised_features():
    """A longer and shifted feature vector is the same point."""
    head = build({"p": ProxyNCAPP(dim=5)}, Setup()).network.heads["embedding"]
    hidden = torch.randn(4, 16)
    torch.testing.assert_close(head(hidden * 7 + 3), head(hidden), atol=1e-5, rtol=0)
    plain = build({"p": ProxyNCAPP(dim=5, layer_norm=False)}, Setup()).network.heads["embedding"]
    assert (plain(hidden * 7 + 3) - plain(hidden)).abs().max() > 0.1


def test_another_loss_may_not_share_the_embedding_without_it():
    with pytest.raises(UserError, match=r"share one embedding.*layer_norm True against False"):
        build({"proxy_nca_pp": ProxyNCAPP(), "triplet": Triplet()}, Setup())
    both = {"proxy_nca_pp": ProxyNCAPP(layer_norm=False), "triplet": Triplet()}
    assert build(both, Setup()).composition.embedding.dim == 128


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_gathers_samples_at_their_proxies(kind):
    method = ProxyNCAPP(dim=8, proxy_lr=1.0)
    result = train({"proxy_nca_pp": method}, kind=kind, steps=40, lr=0.02)
    shown = [row["train/proxy_nca_pp"] for row in result.history]
    assert shown[-1] < 0.8 * shown[0]
