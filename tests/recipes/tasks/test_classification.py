import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score

from datamodules.splits import imbalanced_counts
from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.regularization.mixup import Mixup
from methods.semi_supervised.fixmatch import FixMatch
from recipes.engine.evaluator import Evaluator
from recipes.step import Stream
from recipes.step.criterion import cross_entropy, label_mass, one_hot
from recipes.tasks.classification import ClassificationEvaluation, ClassificationTask, shot_groups
from tests.support.harness import Setup, noisy_view, step_with, train

TASKS = {"shape": 3, "colour": 4}


def test_cross_entropy_of_indices_and_of_dense_targets():
    source = torch.Generator().manual_seed(0)
    z, y = torch.randn(8, 5, generator=source), torch.randint(5, (8,), generator=source)
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))
    torch.testing.assert_close(cross_entropy(z, one_hot(y, 5)), cross_entropy(z, y))
    dense = torch.softmax(torch.randn(8, 5, generator=source), 1)
    torch.testing.assert_close(cross_entropy(z, dense), F.cross_entropy(z, dense, reduction="none"))


def test_a_missing_label_costs_nothing_in_either_form():
    z, y = torch.randn(3, 4, requires_grad=True), torch.tensor([1, -1, 3])
    assert one_hot(y, 4)[1].tolist() == [0, 0, 0, 0]
    for target in (y, one_hot(y, 4)):
        losses = cross_entropy(z, target)
        assert losses[1] == 0
        (gradient,) = torch.autograd.grad(losses.sum(), z)
        assert gradient[1].abs().sum() == 0 and gradient[0].abs().sum() > 0
    dense = torch.tensor([[0.5, 0.5]])
    assert one_hot(dense, 2) is dense


def test_a_partial_task_averages_the_samples_that_have_a_label():
    z, y = (
        torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, -1, 2, -1]),
    )
    expected = F.cross_entropy(z[[0, 2]], y[[0, 2]])
    for target in (y, one_hot(y, 3)):
        at = step_with({"labeled": z}, target)
        ClassificationTask("label", list("abc"), partial=True).supervise(at)
        torch.testing.assert_close(at.terms["supervised"].reduced(), expected)
    at = step_with({"labeled": z}, torch.full((4,), -1))
    ClassificationTask("label", list("abc"), partial=True).supervise(at)
    assert float(at.terms["supervised"].reduced()) == 0.0


@pytest.mark.parametrize("kind", ["image", "text"])
@torch.no_grad()
def test_two_heads_with_missing_labels_give_masked_means(kind):
    setup = Setup(kind=kind, tasks=TASKS, missing=True, steps=1, labeled=12)
    network, batch = setup.network(), setup.batches({"labeled"})[0]["labeled"]
    output = network(
        network.embed(noisy_view(Stream("labeled", **batch), "weak", Randomness(0, 0)))
    )
    expected = {}
    for task in TASKS:
        target = batch["targets"][task]
        has = target >= 0
        assert 0 < int(has.sum()) < 12
        losses = -torch.log_softmax(output.logits[task], 1)[torch.arange(12), target.clamp_min(0)]
        expected[f"train/supervised/{task}"] = float(losses[has].sum() / has.sum())
    expected["train/loss"] = sum(expected.values())
    with torch.enable_grad():
        logged = train(kind=kind, tasks=TASKS, missing=True, steps=1, labeled=12).history[0]
    assert {name: logged[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_two_heads_learn_and_methods_add_a_term_for_each():
    result = train({"fixmatch": FixMatch(threshold=0.0)}, tasks=TASKS, missing=True, steps=3)
    names = {"supervised", "fixmatch", "mask_rate", "confidence", "pseudo_accuracy"}
    expected = {f"train/{name}/{task}" for name in names for task in TASKS} | {
        "train/loss",
        "train/lr",
    }
    assert set(result.history[0]) == expected
    start = Setup(tasks=TASKS).network().state_dict()
    for name, value in result.parameters.items():
        assert not torch.equal(value, start[name]), name


def test_a_mixed_missing_label_weighs_as_its_share():
    result = train({"mixup": Mixup()}, tasks=TASKS, missing=True, steps=2)
    assert all(0 < row[f"train/supervised/{task}"] < 10 for row in result.history for task in TASKS)


def test_a_sample_mixed_with_an_unlabeled_one_weighs_as_its_share():
    """Σ_i Σ_c t_ic ℓ_ic / Σ_i Σ_c t_ic for rows of mass 1, .25 and 0."""
    z = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    target = torch.tensor([[0.4, 0.6, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.0]])
    losses = -(target * torch.log_softmax(z, 1)).sum(1)
    at = step_with({"labeled": z}, target)
    ClassificationTask("label", list("abc"), partial=True).supervise(at)
    term = at.terms["supervised"]
    assert float(term.reduced()) == pytest.approx(float(losses.sum() / 1.25))
    assert term.mask.tolist() == [True, True, False]
    assert label_mass(torch.tensor([2, -1])).tolist() == [1, 0]


def test_the_weight_of_a_task_scales_its_term():
    at = step_with({"labeled": torch.zeros(2, 3)}, torch.tensor([0, 1]))
    ClassificationTask("label", list("abc"), weight=0.25).supervise(at)
    assert at.terms["supervised"].weight == 0.25 and at.terms["supervised"].task == "label"


# -- evaluation ------------------------------------------------------------------------------------
def test_evaluation_against_sklearn_over_several_batches():
    source = torch.Generator().manual_seed(0)
    z, y = torch.randn(50, 6, generator=source), torch.randint(5, (50,), generator=source)
    y[7] = -1
    evaluation = ClassificationEvaluation(6)
    for rows in (slice(0, 20), slice(20, 50)):
        evaluation.update(z[rows], y[rows])
    found, known = evaluation.compute(), y >= 0
    guess = z.argmax(1)
    assert float(found["accuracy"]) == pytest.approx(float((guess == y)[known].float().mean()))
    # class 5 never occurs: the mean of recalls is over the classes that do
    recalls = [float((guess == c)[y == c].float().mean()) for c in range(5)]
    assert float(found["balanced_accuracy"]) == pytest.approx(sum(recalls) / 5)
    keep = known & (guess < 5)
    restricted = ClassificationEvaluation(5)
    restricted.update(z[keep][:, :5], y[keep])
    oracle = balanced_accuracy_score(y[keep], guess[keep])
    assert float(restricted.compute()["balanced_accuracy"]) == pytest.approx(oracle)
    assert float(found["loss"]) == pytest.approx(
        float(F.cross_entropy(z[known], y[known])), abs=1e-6
    )
    evaluation.reset()
    evaluation.update(z[:1], y[:1])
    assert float(evaluation.matrix().sum()) == 1


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([500, 101, 100, 20, 19, 1], {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}),
        ([5000, 2997, 83, 50], {"many": [0, 1], "medium": [2, 3]}),
        ([101, 3], {"many": [0], "few": [1]}),
        ([4, 4, 4], {}),
    ],
)
def test_groups_by_training_counts(counts, expected):
    found = shot_groups(torch.tensor(counts))
    assert {name: mask.nonzero().flatten().tolist() for name, mask in found.items()} == expected


def test_the_groups_of_a_long_tailed_cifar_100():
    counts = imbalanced_counts(torch.full((100,), 500), 100)
    assert [int(mask.sum()) for mask in shot_groups(counts).values()] == [35, 35, 30]
    assert [int(mask.sum()) for mask in shot_groups(counts, (21, 100)).values()] == [35, 34, 31]


def test_accuracy_of_a_group_is_the_mean_over_its_classes_that_occur():
    groups = {"many": torch.tensor([1, 1, 0, 0]).bool(), "few": torch.tensor([0, 0, 1, 1]).bool()}
    evaluation = ClassificationEvaluation(4, groups)
    z, y = torch.eye(4)[[0, 0, 1, 0, 2, 0]], torch.tensor([0, 0, 1, 1, 2, 2])
    for rows in (slice(0, 1), slice(1, 6)):  # not a mean of the batches' accuracies
        evaluation.update(z[rows], y[rows])
    found = evaluation.compute()
    assert (float(found["accuracy_many"]), float(found["accuracy_few"])) == (0.75, 0.5)
    assert float(found["balanced_accuracy"]) == pytest.approx((1 + 0.5 + 0.5) / 3)
    evaluation.reset()
    evaluation.update(z[:2], y[:2])
    assert "accuracy_few" not in evaluation.compute() and "accuracy_many" in evaluation.compute()
    assert "group_many" not in evaluation.state_dict()


def evaluator(tasks: dict[str, int], both: bool) -> Evaluator:
    return Evaluator(
        [ClassificationTask(t, [str(i) for i in range(c)]) for t, c in tasks.items()], both
    )


def test_names_of_metrics():
    metrics = {"accuracy", "balanced_accuracy", "loss"}
    one, two = evaluator({"label": 2}, both=True), evaluator(TASKS, both=False)
    right, wrong = torch.tensor([[5.0, 0], [0, 5.0]]), torch.tensor([[0, 5.0], [5.0, 0]])
    one.update(False, {"label": right}, {"label": torch.tensor([0, 1])})
    one.update(True, {"label": wrong}, {"label": torch.tensor([0, 1])})
    found = one.compute("val")
    assert set(found) == {f"val/{m}" for m in metrics} | {f"val/raw/{m}" for m in metrics}
    assert (found["val/accuracy"], found["val/raw/accuracy"]) == (1.0, 0.0)
    assert one.confusion["label"].tolist() == [[1, 0], [0, 1]]
    logits = {"shape": torch.eye(3), "colour": torch.zeros(3, 4)}
    two.update(False, logits, {"shape": torch.tensor([0, 1, 2]), "colour": torch.tensor([0, 1, 1])})
    found = two.compute("test")
    assert set(found) == {f"test/{t}{m}" for t in ("", "shape/", "colour/") for m in metrics}
    assert found["test/accuracy"] == pytest.approx(
        (found["test/shape/accuracy"] + found["test/colour/accuracy"]) / 2
    )
    assert found["test/colour/accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error_not_class_0(wrong):
    two = evaluator(TASKS, both=True)
    good = {"shape": torch.eye(3), "colour": torch.zeros(3, 4)}
    bad = {"shape": torch.eye(3), "colour": torch.full((3, 4), wrong)}
    targets = {"shape": torch.tensor([0, 1, 2]), "colour": torch.tensor([0, 0, -1])}
    two.update(False, good, targets)
    two.update(True, bad, targets)
    message = "val/raw/colour: the logits of 2 of 2 samples are NaN or infinite; lower optimizer.lr"
    with pytest.raises(UserError, match=message):
        two.compute("val")


def test_a_class_that_is_ruled_out_is_a_number():
    one = evaluator({"label": 3}, both=False)
    z = torch.tensor([[2.0, 1.0, -torch.inf]])
    one.update(False, {"label": z}, {"label": torch.tensor([0])})
    found = one.compute("val")
    assert found["val/accuracy"] == 1 and found["val/loss"] == pytest.approx(0.313262, abs=1e-6)


def test_a_task_without_any_label_has_no_metrics():
    two = evaluator(TASKS, both=False)
    logits = {"shape": torch.eye(3), "colour": torch.zeros(3, 4)}
    none = torch.full((3,), -1)
    two.update(False, logits, {"shape": torch.tensor([0, 1, 0]), "colour": none})
    found = two.compute("test")
    assert {name for name in found if "colour" in name} == set()
    assert found["test/accuracy"] == found["test/shape/accuracy"] == pytest.approx(2 / 3)
    assert found["test/loss"] == found["test/shape/loss"] > 0


def test_computing_leaves_a_clean_slate():
    one, z = evaluator({"label": 2}, both=False), torch.tensor([[1.0, 0.0]])
    one.update(False, {"label": z}, {"label": torch.tensor([1])})
    assert one.compute("val")["val/accuracy"] == 0
    one.update(False, {"label": z}, {"label": torch.tensor([0])})
    assert one.compute("val")["val/accuracy"] == 1
