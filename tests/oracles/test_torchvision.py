"""The sigmoid focal loss against torchvision."""

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from foundation.randomness import generator
from methods.long_tail.focal_loss import sigmoid_cost
from recipes.step.criterion import of_target, one_hot
from tests.support.comparison import same

SOURCE = generator("focal loss")
Z, Y = 3 * torch.randn(64, 7, generator=SOURCE), torch.randint(7, (64,), generator=SOURCE)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (0.5, None), (2.0, 0.25)])
def test_sigmoid_focal_loss(gamma, alpha):
    settings = {"alpha": -1 if alpha is None else alpha, "gamma": gamma}
    same(
        lambda z: of_target(sigmoid_cost(z, gamma, alpha), Y),
        lambda z: sigmoid_focal_loss(z, one_hot(Y, 7), **settings),
        Z,
        tolerance=1e-5,
    )
    # sample by sample, not their sum alone
    expected = sigmoid_focal_loss(Z, one_hot(Y, 7), **settings).sum(1)
    torch.testing.assert_close(
        of_target(sigmoid_cost(Z, gamma, alpha), Y), expected, atol=1e-5, rtol=1e-5
    )
