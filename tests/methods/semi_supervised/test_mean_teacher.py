import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback

from methods.regularization.sam import SAM
from methods.semi_supervised.mean_teacher import MeanTeacher
from tests.support.harness import Setup, build, fit, step_with, train


def teacher_state(result) -> dict[str, torch.Tensor]:
    return dict(result.recipe.teacher.network.state_dict())


def after_terms(method, logits, progress=(1, 1)):
    method.key = "mean_teacher"
    at = step_with(logits, progress=progress)
    method.terms(at, context=None)
    return at.terms["mean_teacher"]


def test_the_student_learns_from_the_teacher_and_the_teacher_gets_no_gradient():
    """A widely used code compares the teacher with itself: zero loss, zero gradient."""
    source = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 4, generator=source).requires_grad_() for _ in range(2))
    term = after_terms(
        MeanTeacher(consistency_on="unlabeled"),
        {"unlabeled/weak": student, "teacher:unlabeled/weak2": teacher},
    )
    loss = term.reduced()
    torch.testing.assert_close(
        loss, F.mse_loss(torch.softmax(student, 1), torch.softmax(teacher, 1))
    )
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_default_weight_is_linear_over_two_fifths_of_the_run():
    z = {
        f"{who}{s}/{v}": torch.zeros(2, 3)
        for who, v in (("", "weak"), ("teacher:", "weak2"))
        for s in ("labeled", "unlabeled")
    }
    weights = [after_terms(MeanTeacher(), z, (t, 10)).weight for t in (0, 1, 2, 4, 8)]
    assert weights == pytest.approx([0, 12.5, 25, 50, 50])


def test_consistency_gradient_is_alive_in_a_true_step():
    """Labels that are all missing leave the consistency as the only source of a gradient."""
    setup = Setup(steps=3)

    class Watch(Callback):
        norms: list[float]

        def on_before_optimizer_step(self, trainer, recipe, optimizer):
            student = [p.grad.norm() for p in recipe.network.parameters()]
            assert all(p.grad is None for p in recipe.teacher.parameters())
            self.norms.append(float(torch.stack(student).norm()))

    watch = Watch()
    watch.norms = []
    method = MeanTeacher(ramp="constant")
    recipe = build({"mean_teacher": method}, setup)
    recipe.tasks["label"].weight = 0.0
    result = fit(recipe, setup, watch)
    assert min(watch.norms) > 1e-4
    assert min(row["train/mean_teacher"] for row in result.history) > 0


@pytest.mark.parametrize("warmup", [True, False])
def test_the_teacher_follows_the_warmed_up_average(warmup):
    """a_t = min(1 - 1/(t+1), a) from t = 1 (.5, .667, .75 …), against a loop over the student's
    weights."""
    students = []

    class Keep(Callback):
        def on_train_start(self, trainer, recipe):
            students.append([p.detach().clone() for p in recipe.network.parameters()])

        def on_train_batch_end(self, trainer, recipe, *rest):
            students.append([p.detach().clone() for p in recipe.network.parameters()])

    setup = Setup(steps=4)
    method = MeanTeacher(ema_decay=0.7, ema_warmup=warmup, ema_horizon=None)
    result = fit(build({"mean_teacher": method}, setup), setup, Keep())
    average = [p.double() for p in students[0]]
    for t, weights in enumerate(students[1:], start=1):
        a = min(1 - 1 / (t + 1), 0.7) if warmup else 0.7
        average = [
            a * mine + (1 - a) * yours.double()
            for mine, yours in zip(average, weights, strict=True)
        ]
    for mine, expected in zip(result.recipe.teacher.network.parameters(), average, strict=True):
        torch.testing.assert_close(mine.double(), expected, atol=1e-6, rtol=0)


def test_no_memory_makes_the_teacher_the_student_and_no_learning_leaves_it():
    result = train({"mean_teacher": MeanTeacher(ema_decay=0.0, ema_warmup=False)}, steps=2)
    for name, value in teacher_state(result).items():
        torch.testing.assert_close(value, result.parameters[name])
    setup = Setup(steps=2, lr=0.0)
    still = fit(build({"mean_teacher": MeanTeacher(ema_decay=0.9)}, setup), setup)
    for name, value in setup.network().state_dict().items():
        torch.testing.assert_close(teacher_state(still)[name], value)


def test_teacher_in_train_mode_keeps_statistics_of_its_own_forwards():
    result = train({"mean_teacher": MeanTeacher()}, steps=3, norm=True, lr=0.0)
    mine, yours = teacher_state(result), result.parameters
    assert int(mine["body.1.num_batches_tracked"]) == 3
    assert not torch.allclose(mine["body.1.running_mean"], yours["body.1.running_mean"], atol=1e-5)
    copied = train({"mean_teacher": MeanTeacher(teacher_mode="eval")}, steps=3, norm=True)
    torch.testing.assert_close(
        teacher_state(copied)["body.1.running_mean"],
        copied.parameters["body.1.running_mean"],
        rtol=0,
        atol=0,
    )


def test_a_replayed_step_counts_the_teachers_statistics_once():
    methods = {"mean_teacher": MeanTeacher(), "sam": SAM()}
    result = train(methods, steps=3, norm=True)
    assert int(teacher_state(result)["body.1.num_batches_tracked"]) == 3
    assert int(result.parameters["body.1.num_batches_tracked"]) == 3


def test_the_teacher_is_what_is_evaluated_beside_the_raw_network():
    result = train({"mean_teacher": MeanTeacher(ema_horizon=None)}, steps=3)
    recipe, view = (
        result.recipe.eval(),
        torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    with torch.no_grad():
        reported, raw = (
            recipe.predict_logits(view)["label"],
            recipe.predict_logits(view, raw=True)["label"],
        )
        torch.testing.assert_close(
            reported, recipe.teacher.network(recipe.teacher.network.embed(view)).logits["label"]
        )
        torch.testing.assert_close(raw, recipe.network(recipe.network.embed(view)).logits["label"])
    assert not torch.allclose(reported, raw)
