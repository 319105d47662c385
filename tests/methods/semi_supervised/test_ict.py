import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from methods.regularization.mixup import Mixup
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.ict import ICT, mixed_scores
from methods.semi_supervised.mean_teacher import MeanTeacher
from methods.semi_supervised.mixmatch import MixMatch
from recipes.step import Output
from tests.support.harness import Setup, SmallNetwork, build, fit, noisy_view, train


@pytest.mark.parametrize(
    ("space", "expected"), [("probabilities", [0.59, 0.41]), ("logits", [0.577188, 0.422812])]
)
def test_worked_example(space, expected):
    z = torch.tensor([[0.8, 0.2], [0.1, 0.9]]).log()
    scores = mixed_scores(z, torch.tensor([1, 0]), torch.tensor([0.7, 0.7]), space)
    torch.testing.assert_close(
        torch.softmax(scores, 1)[0], torch.tensor(expected), atol=1e-6, rtol=0
    )


class Watch(ICT):
    """Keeps inputs, outputs and terms; `fixed` replaces the drawn λ."""

    def __init__(self, fixed: float | None = None, **settings):
        super().__init__(**settings)
        self.fixed, self.seen = fixed, []

    def mixing(self, step):
        partner, share = super().mixing(step)
        return partner, share if self.fixed is None else torch.full_like(share, self.fixed)

    def terms(self, step, recipe):
        super().terms(step, recipe)
        self.seen.append((step, self.mixing(step), dict(step.terms)))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_step_equals_mixing_by_hand(kind):
    method = Watch(ramp="constant")
    result = train({"ict": method}, kind=kind, steps=3)
    for (step, (partner, share), _), row in zip(method.seen, result.history, strict=True):
        lam = float(share[0])
        assert len(share.unique()) == 1 and sorted(partner.tolist()) == list(range(12))
        x, mask, _ = step.embedding("unlabeled", "weak")
        mixed = step.inputs["ict/mixed"].embedded
        torch.testing.assert_close(mixed.x, lam * x + (1 - lam) * x[partner])
        assert mask is None or torch.equal(mixed.mask, mask | mask[partner])
        teacher = torch.softmax(step.logits("teacher:unlabeled/weak", "label"), 1)
        student = torch.softmax(step.logits("ict/mixed", "label"), 1)
        expected = F.mse_loss(student, lam * teacher + (1 - lam) * teacher[partner])
        assert row["train/ict"] == pytest.approx(expected.item(), abs=1e-6)
    assert len({float(share[0]) for _, (_, share), _ in method.seen}) == 3


def test_share_one_is_mean_teacher_with_the_same_view():
    def one_view(stream, view, randomness):
        return noisy_view(stream, view.rstrip("0123456789"), randomness)

    ict = train({"ict": Watch(fixed=1.0, ramp="constant", weight=50.0)}, steps=4, view=one_view)
    mean = train(
        {"mean_teacher": MeanTeacher(ramp="constant", consistency_on="unlabeled")},
        steps=4,
        view=one_view,
    )
    first, second = (
        [row["train/ict"] for row in ict.history],
        [row["train/mean_teacher"] for row in mean.history],
    )
    assert max(first) > 0 and first == pytest.approx(second, abs=1e-6)
    for name, value in mean.parameters.items():
        torch.testing.assert_close(ict.parameters[name], value, atol=1e-5, rtol=0)


def test_a_linear_network_without_softmax_agrees_with_its_mixed_self():
    """Interpolation is what a linear function does by itself: nothing is left to learn from
    logits."""

    class Linear(SmallNetwork):
        def __init__(self):
            super().__init__("image", {"label": 3})
            self.heads["label"] = nn.Linear(192, 3)

        def forward(self, embedded):
            features = embedded.x.flatten(1)
            return Output(features, {"label": self.heads["label"](features)})

    method = Watch(ramp="constant", mix_space="logits")
    setup = Setup(steps=1)
    row = fit(build({"ict": method}, setup, Linear()), setup).history[0]
    assert row["train/ict"] == pytest.approx(0, abs=1e-12) and row["train/supervised"] > 0


def test_the_student_has_a_gradient_and_the_teacher_none():
    method = Watch(ramp="constant")
    recipe = train({"ict": method}, steps=2).recipe
    term = method.seen[-1][2]["ict"]
    assert term.values.requires_grad
    assert all(p.grad is None for p in recipe.teacher.parameters())
    assert not method.seen[-1][0].logits("teacher:unlabeled/weak", "label").requires_grad


def test_default_ramp():
    method = Watch()
    train({"ict": method}, steps=5, total=16)
    weights = [terms["ict"].weight for *_, terms in method.seen]
    assert weights == pytest.approx([0.673795, 6.00547, 28.65048, 73.16156, 100], rel=1e-5)


def test_the_teacher_is_evaluated_and_shared_with_mean_teacher():
    result = train({"ict": ICT(), "mean_teacher": MeanTeacher()}, steps=2)
    assert result.recipe.composition.evaluates_teacher
    with pytest.raises(UserError, match="share one EMA network"):
        Setup().composition({"ict": ICT(ema_decay=0.9), "mean_teacher": MeanTeacher()})


def test_one_mixer_a_stream():
    with pytest.raises(UserError, match="both own the mixing of unlabeled inputs"):
        Setup().composition({"ict": ICT(), "mixmatch": MixMatch()})
    together = train(
        {"ict": ICT(ramp="constant"), "mixup": Mixup(), "fixmatch": FixMatch(threshold=0.0)},
        steps=2,
    )
    assert all(row["train/ict"] > 0 and row["train/fixmatch"] > 0 for row in together.history)
