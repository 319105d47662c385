import pytest
import torch
import torch.nn.functional as F

from methods.long_tail.logit_adjustment import LogitAdjustment, RunningPrior, adjusted
from methods.long_tail.posthoc_logit_adjustment import PosthocLogitAdjustment
from methods.semi_supervised.fixmatch import FixMatch
from recipes.services.statistics import ClassStatistics
from recipes.step import PseudoLabels
from tests.support.harness import Setup, build, step_with, train

COUNTS = torch.tensor([100, 10, 1])
LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 1.5]])
TARGETS = torch.tensor([0, 2])
LOG_PRIOR = ClassStatistics({"label": COUNTS}).log_prior("label")


@pytest.mark.parametrize(
    ("tau", "each", "mean"),
    [
        (0.0, (0.40760596, 0.37153903), 0.38957250),
        (0.5, (0.12210012, 1.59703531), 0.85956772),
        (1.0, (0.03743190, 3.65348008), 1.84545599),
    ],
)
def test_worked_example(tau, each, mean):
    losses = F.cross_entropy(adjusted(LOGITS, LOG_PRIOR, tau), TARGETS, reduction="none")
    torch.testing.assert_close(losses, torch.tensor(each), atol=2e-6, rtol=0)
    assert float(losses.mean()) == pytest.approx(mean, abs=2e-6)


class Fake:
    """What the methods read of a recipe."""

    statistics = ClassStatistics({"label": COUNTS})


def test_posthoc_form_subtracts():
    chosen = PosthocLogitAdjustment().infer(LOGITS, "label", Fake()).argmax(1)
    assert LOGITS.argmax(1).tolist() == [0, 2]
    assert chosen.tolist() == [2, 2]
    torch.testing.assert_close(
        PosthocLogitAdjustment(tau=0.0).infer(LOGITS, "label", Fake()), LOGITS
    )


def test_equal_counts_are_plain_cross_entropy():
    equal = ClassStatistics({"label": torch.tensor([7, 7, 7])}).log_prior("label")
    a, b = F.cross_entropy(adjusted(LOGITS, equal, 1.0), TARGETS), F.cross_entropy(LOGITS, TARGETS)
    torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


def test_tau_one_is_balanced_softmax_at_any_scale_of_the_counts():
    for scale in (1, 13):
        weighted = (scale * COUNTS) * LOGITS.double().exp()
        balanced = -(weighted.gather(1, TARGETS[:, None]).squeeze(1) / weighted.sum(1)).log()
        ours = F.cross_entropy(adjusted(LOGITS, LOG_PRIOR, 1.0), TARGETS, reduction="none")
        torch.testing.assert_close(ours.double(), balanced, atol=1e-6, rtol=0)


def test_gradient_is_that_of_cross_entropy_at_shifted_logits():
    z, shifted = LOGITS.clone().requires_grad_(), (LOGITS + 1.5 * LOG_PRIOR).requires_grad_()
    F.cross_entropy(adjusted(z, LOG_PRIOR, 1.5), TARGETS).backward()
    F.cross_entropy(shifted, TARGETS).backward()
    torch.testing.assert_close(z.grad, shifted.grad)


def test_a_class_without_samples_counts_as_one():
    prior = ClassStatistics({"label": torch.tensor([9, 0, 1])}).log_prior("label")
    torch.testing.assert_close(prior, torch.log(torch.tensor([0.9, 0.1, 0.1])))


def test_half_precision_logits_are_adjusted_in_float32():
    assert adjusted(LOGITS.bfloat16(), LOG_PRIOR, 1.0).dtype == torch.float32


def test_training_adjusts_the_supervised_loss_and_nothing_else():
    setup = Setup(steps=1)
    methods = {"fixmatch": FixMatch(threshold=0.0), "logit_adjustment": LogitAdjustment(tau=2.0)}
    adjusting, plain = (
        train(methods, steps=1).history[0],
        train({"fixmatch": FixMatch(threshold=0.0)}, steps=1).history[0],
    )
    assert adjusting["train/fixmatch"] == plain["train/fixmatch"]
    assert adjusting["train/confidence"] == plain["train/confidence"]
    assert adjusting["train/supervised"] != plain["train/supervised"]
    recipe = build({"logit_adjustment": LogitAdjustment(tau=2.0)}, setup)
    view = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(
        recipe.predict_logits(view)["label"],
        recipe.network(recipe.network.embed(view)).logits["label"],
    )


def test_posthoc_form_changes_the_reported_logits_and_keeps_the_raw_ones():
    recipe = build({"posthoc_logit_adjustment": PosthocLogitAdjustment()}, Setup())
    view = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        reported, raw = (
            recipe.predict_logits(view)["label"],
            recipe.predict_logits(view, raw=True)["label"],
        )
    torch.testing.assert_close(reported, raw - recipe.statistics.log_prior("label"))
    assert recipe.evaluator.variants == (False, True)


def test_running_prior_is_an_average_from_uniform():
    prior, q = RunningPrior(2), torch.tensor([[1.0, 0.0], [0.6, 0.4]])
    prior.update(q, 0.9)
    torch.testing.assert_close(
        prior.prior, 0.9 * torch.tensor([0.5, 0.5]) + 0.1 * torch.tensor([0.8, 0.2])
    )


@pytest.mark.parametrize(("steps", "momentum"), [(40, 0.5), (300, 14 / 15), (1000, 0.98)])
def test_the_running_prior_covers_a_share_of_the_run(steps, momentum):
    """With the momentum alone, .999, a run of 300 steps would end near the uniform start."""
    method = LogitAdjustment(adjust_unlabeled=True)
    method.key, recipe = "it", Fake()
    prior = RunningPrior(3)
    recipe.method_modules = {"it": {"label": prior}}
    recipe.total_steps = steps
    step = step_with({})
    q = torch.tensor([[1.0, 0.0, 0.0]])
    step.publish_pseudo_labels("label", PseudoLabels(q, q.argmax(1), torch.ones(1)))
    method.terms(step, recipe)
    assert float(prior.prior[0]) == pytest.approx(momentum / 3 + 1 - momentum)


@pytest.mark.parametrize("first", ["fixmatch", "logit_adjustment"])
def test_the_running_prior_learns_whichever_method_the_config_names_first(first):
    methods = {
        "fixmatch": FixMatch(threshold=0.0),
        "logit_adjustment": LogitAdjustment(adjust_unlabeled=True, prior_momentum=0.5),
    }
    if first == "logit_adjustment":
        methods = dict(reversed(methods.items()))
    result = train(methods, steps=3)
    prior = result.recipe.method_modules["logit_adjustment"]["label"].prior
    assert float(prior.sum()) == pytest.approx(1, abs=1e-6)
    assert float((prior - 1 / 3).abs().max()) > 1e-3
    unadjusted = train(
        {"fixmatch": FixMatch(threshold=0.0), "logit_adjustment": LogitAdjustment()}, steps=3
    )
    # the first step sees a uniform prior, which changes nothing; the second one a learnt one
    a, b = ([row["train/fixmatch"] for row in run.history] for run in (result, unadjusted))
    assert a[0] == pytest.approx(b[0], abs=1e-6)
    assert abs(a[1] - b[1]) > 1e-6


def test_a_prior_without_mass_stays_finite():
    method = LogitAdjustment(adjust_unlabeled=True)
    method.key, recipe = "it", Fake()
    recipe.method_modules = {"it": {"label": RunningPrior(3)}}
    recipe.method_modules["it"]["label"].update(torch.tensor([[1.0, 0.0, 0.0]]), 0.0)
    assert torch.isfinite(method.adjust(None, LOGITS, None, "label", "pseudo", recipe)).all()


def test_a_replayed_pass_does_not_teach_the_running_prior():
    method = LogitAdjustment(adjust_unlabeled=True, prior_momentum=0.5)
    recipe = build({"fixmatch": FixMatch(), "logit_adjustment": method}, Setup())
    prior = recipe.method_modules["logit_adjustment"]["label"].prior
    q = torch.tensor([[1.0, 0.0, 0.0]])
    step = step_with({})
    step.publish_pseudo_labels("label", PseudoLabels(q, q.argmax(1), torch.ones(1)))
    method.terms(step, recipe)
    once = prior.clone()
    assert once.tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    step.replay = True
    method.terms(step, recipe)
    assert torch.equal(prior, once)
