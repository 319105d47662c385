import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.seesaw_loss import SeesawLoss, seesaw
from methods.regularization.mixup import Mixup
from methods.regularization.sam import SAM
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import COUNTS, LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("seesaw loss")
Z, Y = 2 * torch.randn(30, 6, generator=SOURCE), torch.randint(6, (30,), generator=SOURCE)
N = torch.tensor([500, 200, 100, 30, 10, 0])
OF_DATASET = {"counts": "dataset"}


def test_worked_example():
    found = losses(SeesawLoss(**OF_DATASET))
    torch.testing.assert_close(found, torch.tensor([0.05987557, 0.37153903]), atol=1e-6, rtol=0)
    z, y = torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0])
    factors = (seesaw(z, y, COUNTS, 0.8, 2.0, 0.01) - z).exp()
    torch.testing.assert_close(
        factors, torch.tensor([[1.0, 8.65322363, 0.18560470]]), atol=1e-5, rtol=0
    )
    assert float(losses(SeesawLoss(**OF_DATASET), logits=z, target=y)) == pytest.approx(
        4.18118994, abs=1e-6
    )


def test_equals_the_double_loop_of_the_formula():
    z, n = Z.double().numpy(), np.maximum(N.numpy(), 1)
    sigma = torch.softmax(Z.double(), 1).numpy()
    expected = []
    for i, y in enumerate(Y.tolist()):
        denominator = np.exp(z[i, y])
        for j in range(6):
            if j != y:
                m = (n[j] / n[y]) ** 0.8 if n[j] < n[y] else 1.0
                ratio = sigma[i, j] / max(sigma[i, y], 0.01)
                denominator += m * (ratio**2 if ratio > 1 else 1.0) * np.exp(z[i, j])
        expected.append(np.log(denominator) - z[i, y])
    found = losses(SeesawLoss(**OF_DATASET), logits=Z, target=Y, counts=N)
    torch.testing.assert_close(
        found.double(), torch.tensor(np.array(expected)), atol=1e-5, rtol=1e-5
    )


def test_limit_cases_are_cross_entropy():
    plain = F.cross_entropy(Z, Y, reduction="none")
    torch.testing.assert_close(
        losses(SeesawLoss(p=0, q=0, **OF_DATASET), logits=Z, target=Y, counts=N), plain
    )
    equal = torch.full((6,), 9)
    torch.testing.assert_close(
        losses(SeesawLoss(q=0, **OF_DATASET), logits=Z, target=Y, counts=equal), plain
    )
    winners = Z.argmax(1)
    compensated = losses(SeesawLoss(p=0, **OF_DATASET), logits=Z, target=winners, counts=N)
    torch.testing.assert_close(compensated, F.cross_entropy(Z, winners, reduction="none"))


def test_the_factors_carry_no_gradient():
    z = Z.clone().requires_grad_()
    losses(SeesawLoss(**OF_DATASET), logits=z, target=Y, counts=N).sum().backward()
    shifted = seesaw(Z, Y, N, 0.8, 2.0, 0.01)
    torch.testing.assert_close(z.grad, torch.softmax(shifted, 1) - one_hot(Y, 6), atol=1e-5, rtol=0)


def test_online_counts_see_the_present_batch_and_missing_labels_do_not_count():
    method = SeesawLoss(q=0)
    criterion = criterion_of(method, labels=torch.tensor([0, 0, 0, 2, -1]))
    expected = seesaw(LOGITS, TARGETS, torch.tensor([3, 0, 1]), 0.8, 0.0, 0.01)
    torch.testing.assert_close(criterion.adjust(LOGITS, TARGETS, "label", "labeled"), expected)
    missing = criterion(LOGITS, torch.tensor([-1, 2]), "label", "labeled")
    assert float(missing[0]) == 0 and float(missing[1]) > 0


def test_pseudo_labels_see_raw_logits():
    criterion = criterion_of(SeesawLoss())
    assert torch.equal(criterion.adjust(LOGITS, TARGETS, "label", "pseudo"), LOGITS)
    assert torch.equal(criterion.adjust(LOGITS, None, "label", "labeled"), LOGITS)


@pytest.mark.parametrize("sam", [False, True])
def test_a_run_counts_every_label_once(sam):
    methods = {"seesaw_loss": SeesawLoss()} | ({"sam": SAM()} if sam else {})
    result = train(methods, steps=4)
    setup = Setup(steps=4)
    labels = torch.cat(
        [batch["labeled"]["targets"]["label"] for batch in setup.batches({"labeled"})]
    )
    seen = result.recipe.method_modules["seesaw_loss"]["label"].counts
    assert torch.equal(seen, torch.bincount(labels, minlength=3)) and int(seen.sum()) == 24
    assert result.losses != train({"sam": SAM()} if sam else {}, steps=4).losses


def test_what_it_cannot_meet():
    with pytest.raises(
        UserError,
        match=r"seesaw_loss cannot be combined with .*mixup: its weights need the one true class",
    ):
        build({"seesaw_loss": SeesawLoss(), "mixup": Mixup()}, Setup())
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build({"seesaw_loss": SeesawLoss(), "balanced_softmax": BalancedSoftmax()}, Setup())
    build({"seesaw_loss": SeesawLoss(p=0), "balanced_softmax": BalancedSoftmax()}, Setup())
    with pytest.raises(UserError, match="one true class"):
        losses(SeesawLoss(), target=one_hot(TARGETS, 3))
