"""Class-balanced and sigmoid focal losses against balanced-loss: the batch's mean, and its gradient
by the logits."""

import pytest
import torch

from foundation.randomness import generator
from methods.long_tail.class_balanced_loss import ClassBalancedLoss
from methods.long_tail.focal_loss import FocalLoss
from tests.support.comparison import installed, same
from tests.support.worked_long_tail import COUNTS, LOGITS, TARGETS, losses

SOURCE = generator("balanced loss")
Z, Y = 2 * torch.randn(64, 7, generator=SOURCE), torch.randint(7, (64,), generator=SOURCE)
N = torch.randint(1, 3000, (7,), generator=SOURCE)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("cross_entropy", []),
        ("focal_loss", [FocalLoss(mode="sigmoid")]),
        ("binary_cross_entropy", [FocalLoss(gamma=0.0, mode="sigmoid")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_class_balanced_losses(kind, others, beta):
    settings = {
        "beta": beta,
        "fl_gamma": 2,
        "samples_per_class": N.tolist(),
        "class_balanced": True,
    }
    peer = installed("balanced_loss").Loss(kind, **settings)
    # the package averages its binary form over classes as well
    scale = 7 if kind == "binary_cross_entropy" else 1
    method = ClassBalancedLoss(beta)
    same(
        lambda z: losses(method, *others, logits=z, target=Y, counts=N).mean(),
        lambda z: scale * peer(z, Y),
        Z,
        tolerance=1e-5,
    )


@pytest.mark.parametrize(
    ("z", "y", "counts"), [(LOGITS, TARGETS, COUNTS), (Z, Y, N)], ids=["worked example", "random"]
)
def test_sigmoid_focal_loss(z, y, counts):
    peer = installed("balanced_loss").Loss("focal_loss", fl_gamma=2)
    method = FocalLoss(mode="sigmoid")
    same(
        lambda x: losses(method, logits=x, target=y, counts=counts).mean(),
        lambda x: peer(x, y),
        z,
        tolerance=1e-5,
    )
