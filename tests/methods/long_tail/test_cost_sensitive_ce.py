import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.cost_sensitive_ce import CostSensitiveCE, expected_cost
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("cost-sensitive cross-entropy")
Z, Y = 2 * torch.randn(40, 5, generator=SOURCE), torch.randint(5, (40,), generator=SOURCE)
N = torch.tensor([500, 200, 100, 30, 10])
K = torch.rand(5, 5, generator=SOURCE).fill_diagonal_(0)
EXPECTED = {"form": "expected_cost"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.18780755),
        ({"reduction": "weight"}, 0.37189613),
        # 0.5: weights .1, .31622777, 1 by hand
        ({"gamma": 0.5}, (0.1 * 0.40760596 + 0.37153903) / 2),
        ({"gamma": 0.0}, 0.38957250),
        ({"costs": [2.0, 5.0, 3.0]}, (2 * 0.40760596 + 3 * 0.37153903) / 2),
    ],
)
def test_worked_losses(settings, expected):
    found = losses(CostSensitiveCE(**settings)).mean()
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_given_costs_are_the_weights_of_torch():
    costs = [1.0, 2.0, 0.5, 0.0, 7.0]
    expected = F.cross_entropy(Z, Y, torch.tensor(costs), reduction="none")
    torch.testing.assert_close(
        losses(CostSensitiveCE(costs), logits=Z, target=Y, counts=N), expected
    )
    mixed = 0.4 * one_hot(Y, 5) + 0.6 * one_hot(Y.flip(0), 5)
    expected = F.cross_entropy(Z, mixed, torch.tensor(costs), reduction="none")
    found = losses(CostSensitiveCE(costs), logits=Z, target=mixed, counts=N)
    torch.testing.assert_close(found, expected)


def test_the_expected_cost_is_the_double_loop():
    p = Z.double().softmax(1)
    expected = [sum(float(K[y, j] * p[i, j]) for j in range(5)) for i, y in enumerate(Y.tolist())]
    method = CostSensitiveCE(K.tolist(), **EXPECTED)
    found = losses(method, logits=Z, target=Y, counts=N)
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_the_expected_cost_of_equal_errors_is_the_chance_of_one():
    wrong = 1 - Z.double().softmax(1).gather(1, Y[:, None]).squeeze(1)
    unit = (1 - torch.eye(5)).tolist()
    for method in (CostSensitiveCE(unit, **EXPECTED), CostSensitiveCE(gamma=0.0, **EXPECTED)):
        found = losses(method, logits=Z, target=Y, counts=N)
        torch.testing.assert_close(found.double(), wrong, atol=1e-6, rtol=0)
    costs = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    rows = costs[:, None] * (1 - torch.eye(5))
    torch.testing.assert_close(expected_cost(Z, costs), expected_cost(Z, rows))


def test_pseudo_labels_keep_cross_entropy():
    for method in (CostSensitiveCE(), CostSensitiveCE(**EXPECTED)):
        found = criterion_of(method)(LOGITS, TARGETS, "label", "pseudo")
        torch.testing.assert_close(found, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


def test_given_costs_are_those_of_one_task():
    tasks = {"shape": 3, "colour": 4}
    plain = train(tasks=tasks, steps=1).history[0]
    method = CostSensitiveCE([3.0] * 4, task="colour")
    row = train({"cost_sensitive_ce": method}, tasks=tasks, steps=1).history[0]
    assert row["train/supervised/shape"] == pytest.approx(plain["train/supervised/shape"])
    colour = plain["train/supervised/colour"]
    assert row["train/supervised/colour"] == pytest.approx(3 * colour, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"costs": [1.0, 2.0]}, r"costs: found lists of 2 costs; task 'label' has 3 classes"),
        ({"costs": [[0.0, 1.0, 2.0], [1.0, 0.0]], **EXPECTED}, r"found lists of 2 and 3 costs"),
        ({"costs": [[1.0] * 3] * 3, **EXPECTED}, "a true prediction has a cost; .* of zeros"),
        ({"costs": [1.0] * 3, "task": "labels"}, "task: no task 'labels'; did you mean 'label'"),
    ],
)
def test_costs_that_do_not_fit(settings, line):
    with pytest.raises(UserError, match=line):
        build({"cost_sensitive_ce": CostSensitiveCE(**settings)}, Setup())


def test_settings_that_contradict_each_other():
    with pytest.raises(UserError, match=r"is no weight of a sample; .* form=expected_cost"):
        CostSensitiveCE(K.tolist())
    with pytest.raises(UserError, match="form=expected_cost has no weights to divide by"):
        CostSensitiveCE(reduction="weight", **EXPECTED)


def test_only_costs_by_frequency_correct_the_prior():
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build({"a": CostSensitiveCE(), "b": BalancedSoftmax()}, Setup())
    build({"a": CostSensitiveCE([1.0, 2.0, 3.0]), "b": BalancedSoftmax()}, Setup())
    assert CostSensitiveCE(gamma=0.0).idle_settings() == ["gamma"]
    assert CostSensitiveCE([1.0, 2.0, 3.0], gamma=0.0).idle_settings() == []
