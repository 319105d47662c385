import math

import numpy as np
import torch
import torch.nn.functional as F

from methods.semi_supervised.consistency import entropy, squared_distance
from recipes.step.criterion import kl_divergence


def random_logits(seed: int = 0, rows: int = 16, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def test_kl_divergence_equals_torch_and_treats_zero_as_zero():
    q, z = torch.softmax(random_logits(1), 1), random_logits(2)
    expected = F.kl_div(F.log_softmax(z, 1), q, reduction="none").sum(1)
    torch.testing.assert_close(kl_divergence(q, z), expected, atol=1e-6, rtol=1e-5)
    hard = F.one_hot(z.argmax(1), 5).float()
    torch.testing.assert_close(
        kl_divergence(hard, z), F.cross_entropy(z, z.argmax(1), reduction="none")
    )


def test_kl_and_cross_entropy_have_one_student_gradient():
    q, z = torch.softmax(random_logits(1), 1), random_logits(2).requires_grad_()
    (by_kl,) = torch.autograd.grad(kl_divergence(q, z).sum(), z)
    (by_ce,) = torch.autograd.grad(F.cross_entropy(z, q, reduction="sum"), z)
    torch.testing.assert_close(by_kl, by_ce)


def test_squared_distance_worked_example():
    p, q = (
        torch.softmax(torch.tensor([[2.0, 0, 0]]), 1),
        torch.softmax(torch.tensor([[0.0, 1, 0]]), 1),
    )
    assert abs(3 * float(squared_distance(p, q)) - 0.562326) < 1e-6
    assert abs(float(squared_distance(p, q)) - 0.187442) < 1e-6
    p, q = torch.softmax(random_logits(1), 1), torch.softmax(random_logits(2), 1)
    torch.testing.assert_close(squared_distance(p, q).mean(), F.mse_loss(p, q))


def test_entropy_against_numpy_with_gradient():
    z = random_logits().requires_grad_()
    p = torch.softmax(z.detach(), 1).double().numpy()
    np.testing.assert_allclose(entropy(z).detach().numpy(), -(p * np.log(p)).sum(1), atol=1e-5)
    assert abs(float(entropy(torch.zeros(1, 7)).detach()) - math.log(7)) < 1e-6
    entropy(z).sum().backward()
    # rising entropy lowers the largest logit
    assert (z.grad.gather(1, z.argmax(1, keepdim=True)) <= 0).all()
