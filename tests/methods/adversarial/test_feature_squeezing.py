"""Squeezers, scores and the threshold of the specification; the run's own detector in evaluation."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from foundation.errors import UserError
from methods.adversarial.detection import alarm_at
from methods.adversarial.feature_squeezing import FeatureSqueezing, distances
from methods.adversarial.reported_victim import ReportedVictim
from methods.adversarial.robust_accuracy import METRICS
from methods.adversarial.robustness import PGDRobustness
from methods.adversarial.smoothing import median
from methods.adversarial.squeezers import bit_depth, squeezers
from methods.adversarial.under_attack import Evading
from recipes.contract import Seen
from recipes.contract.environment import Environment
from recipes.engine.recipe import Recipe
from recipes.step import Embedded
from tests.support.harness import Batches, Setup, build, small_trainer

KEY = "feature_squeezing"
X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = {"label": torch.tensor([0, 1, 2, 0, 1, 2])}


def squeezing(probes=(), setup=None, **settings):
    """A recipe with the method, and a validation part of 20 samples."""
    setup = setup or Setup()
    parts = build({}, setup)._parts
    methods = {KEY: FeatureSqueezing(**settings)}
    composition = setup.composition(methods)
    sizes = parts.sizes | {"val": 20}
    network = setup.network()
    made = replace(
        parts, network=network, composition=composition, sizes=sizes, probes=list(probes)
    )
    return Recipe(made).eval()


def test_bit_depths_of_the_specification():
    x = torch.tensor([0.5, 0.49])
    expected = torch.tensor([0.57142857, 0.42857143])
    torch.testing.assert_close(bit_depth(x, 3), expected)
    assert bit_depth(torch.tensor([0.5, 0.51]), 1).tolist() == [0, 1]  # half to even
    assert torch.equal(bit_depth(X, 8), (X * 255).round() / 255)


def test_squeezers_pass_gradients_as_the_identity():
    for squeeze, plain in zip(squeezers(2, 3, None), (bit_depth(X, 2), median(X, 3)), strict=True):
        leaf = X.clone().requires_grad_()
        found = squeeze(leaf)
        assert torch.equal(found.detach(), plain)
        weights = torch.rand(X.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad((found * weights).sum(), leaf)
        assert torch.equal(gradient, weights)


def test_the_distance_is_that_of_probabilities_at_most_two():
    clean = {"label": torch.tensor([[0.0, 0.0], [20.0, -20.0]])}
    other = {"label": torch.tensor([[2.0, 0.0], [-20.0, 20.0]])}
    p = torch.sigmoid(torch.tensor(2.0))
    expected = torch.stack([2 * (p - 0.5), torch.tensor(2.0)])
    torch.testing.assert_close(distances(clean, other), expected)
    several = distances(clean | {"b": clean["label"]}, other | {"b": clean["label"]})
    torch.testing.assert_close(several, expected)


@torch.no_grad()
def test_the_score_is_the_largest_over_squeezers():
    recipe = squeezing(bits=1, window=3)
    embedded = Embedded(X)
    found = recipe.remarks(embedded)[f"{KEY}/score"].values

    def p(x):
        return recipe.network(Embedded(x)).logits["label"].softmax(1)

    apart = [(p(X) - p(s)).abs().sum(1) for s in (bit_depth(X, 1), median(X, 3))]
    torch.testing.assert_close(found, torch.stack(apart).amax(0))
    assert (apart[0] > apart[1]).any() and (apart[1] > apart[0]).any()


@torch.no_grad()
def test_predictions_are_of_the_original_or_of_the_squeezed_picture():
    original, squeezed = squeezing(bits=1), squeezing(bits=1, predict="squeezed")
    embedded = Embedded(X)
    plain = original.network(embedded).logits["label"]
    assert torch.equal(original.predict(embedded)["label"], plain)
    assert original.evaluator.variants == (False,)
    changed = squeezed.network(Embedded(bit_depth(X, 1))).logits["label"]
    assert torch.equal(squeezed.predict(embedded)["label"], changed)
    scores = [recipe.remarks(embedded)[f"{KEY}/score"].values for recipe in (original, squeezed)]
    torch.testing.assert_close(*scores)


def test_the_threshold_comes_from_the_scores_of_the_validation_part():
    recipe = squeezing(false_alarms=0.1)
    method = recipe.composition.methods[KEY]
    assert recipe.method_modules[KEY].value.isnan()
    (survey,) = method.declare().surveys
    assert survey.part == "val" and str(survey.when) == "before every validation"
    seen = Seen({}, None, {}, torch.arange(6), lambda: recipe.remarks(Embedded(X)))
    with torch.no_grad():
        rows = survey.take(seen)["score"]
    method.surveyed(survey, {"score": rows}, recipe)
    found = recipe.state_dict()[f"method_modules.{KEY}.value"]
    assert torch.equal(found, alarm_at(rows, 0.1))
    flags = recipe.remarks(Embedded(X))[f"{KEY}/score"].flags()
    assert torch.equal(flags, (rows > found).float())


def test_a_run_without_a_validation_part_is_refused():
    with pytest.raises(UserError) as refusal:
        build({KEY: FeatureSqueezing()}, Setup())
    assert str(refusal.value) == (
        "methods.feature_squeezing: sets its threshold on clean samples of the validation part, "
        "and there is none; hold one out, e.g. data.val_fraction=0.1"
    )


def refusal_of(shape=(1, 8, 8), **settings):
    method = FeatureSqueezing(**settings)
    method.key = KEY
    with pytest.raises(UserError) as refusal:
        method.check(Environment("image", frozenset(), shape=shape))
    return str(refusal.value)


def test_squeezers_that_do_not_fit_are_refused():
    assert refusal_of(bits=None, window=None) == (
        "methods.feature_squeezing: has no squeezer; give methods.feature_squeezing.bits, window "
        "or nlm a value"
    )
    assert refusal_of(window=9) == (
        "methods.feature_squeezing.window: got 9, and pictures have 8 pixels; expected fewer"
    )
    assert "a window or patch of even size" in refusal_of(nlm="12-3-2")
    assert "pictures have 4" in refusal_of((4, 8, 8), nlm="13-3-2")


@pytest.mark.skipif(importlib.util.find_spec("cv2") is not None, reason="OpenCV is installed")
def test_without_opencv_non_local_means_are_refused():
    assert refusal_of(nlm="13-3-2") == (
        "methods.feature_squeezing.nlm: non-local means are OpenCV's, which is not installed; "
        "pip install 'roux[squeezing]', or use null"
    )


def test_non_local_means_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    for channels in (1, 3):
        x = X[:, :channels]
        (squeeze,) = squeezers(None, None, "13-3-2")
        pixels = (x[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        if channels == 1:
            expected = cv2.fastNlMeansDenoising(pixels, None, 2, 3, 13)
        else:
            expected = cv2.fastNlMeansDenoisingColored(pixels, None, 2, 2, 3, 13)
        expected = torch.from_numpy(expected).reshape(8, 8, channels).permute(2, 0, 1) / 255
        torch.testing.assert_close(squeeze(x)[0], expected)


# -- under attack ----------------------------------------------------------------------------------
def test_the_joint_objective_lowers_the_score_by_its_weight():
    recipe = squeezing(bits=2)
    recipe.method_modules[KEY].value.fill_(0.01)
    victim = ReportedVictim(recipe, Embedded(X), Y, torch.arange(6))
    plain = victim.objective("ce")
    score = recipe.remarks(Embedded(X))[f"{KEY}/score"].values
    excess = (score - 0.01).clamp_min(0)
    assert excess.max() > 0
    expected = plain(X) - 3.0 * excess
    torch.testing.assert_close(Evading(victim, plain, 3.0)(X), expected)
    leaf = X.clone().requires_grad_()
    joint = torch.autograd.grad(Evading(victim, plain, 3.0)(leaf).sum(), leaf)[0]
    alone = torch.autograd.grad(plain(leaf).sum(), leaf)[0]
    assert not torch.allclose(joint, alone)


@torch.no_grad()
def test_of_all_points_the_misclassified_one_with_the_smallest_excess_is_kept():
    recipe = squeezing(bits=2)
    recipe.method_modules[KEY].value.fill_(0.0)
    logits = recipe.network(Embedded(X)).logits["label"]
    # of half of the samples any point is misclassified
    y = {"label": torch.where(torch.arange(6) % 2 == 0, logits.argmin(1), logits.argmax(1))}
    victim = ReportedVictim(recipe, Embedded(X), y, torch.arange(6))
    evading = Evading(victim, victim.objective("ce"), 1.0)
    source = torch.Generator().manual_seed(2)
    points = [torch.rand(X.shape, generator=source) for _ in range(8)]
    for point in points[:-1]:
        evading(point)
    found = evading.found(points[-1])
    margin = victim.objective("margin")
    tries = []
    for i in range(6):
        wrong = [k for k, point in enumerate(points) if margin(point)[i] >= 0]
        best = min(wrong, key=lambda k: float(evading.excess(points[k])[i]), default=7)
        assert torch.equal(found[i], points[best][i])
        tries.append((len(wrong), best))
    assert any(count > 4 and best < 7 for count, best in tries)


class Tries:
    """An attack that tries these points in turn and returns the last one."""

    by_gradient = True

    def __init__(self, points):
        self.points = points

    def __call__(self, victim, threat, draw):
        for point in self.points:
            victim.value(point)
        return self.points[-1]


def test_the_attack_that_knows_ends_at_its_best_point():
    recipe = squeezing(bits=2)
    recipe.method_modules[KEY].value.fill_(0.0)
    with torch.no_grad():
        wrong = {"label": recipe.network(Embedded(X)).logits["label"].argmin(1)}
    victim = ReportedVictim(recipe, Embedded(X), wrong, torch.arange(6))
    source = torch.Generator().manual_seed(2)
    points = [torch.rand(X.shape, generator=source) for _ in range(4)]
    evading = Evading(victim, victim.objective("ce"), 1.0)
    for point in points:
        evading(point)
    best = evading.found(points[-1])
    assert not torch.equal(best, points[-1])
    probe = PGDRobustness(eps=0.3, steps=5, restarts=1, evade=1.0)
    probe.algorithm = Tries(points)
    kept = []
    probe.sums["label"] = torch.zeros(len(METRICS) + 1)
    probe.evaded.add = lambda victim, points, success: kept.append(points)
    probe.measure(victim)
    assert torch.equal(kept[0][-1], best)


def test_a_measurement_under_attack_reports_both_attackers():
    setup = Setup(steps=3)
    probe = PGDRobustness(eps=0.3, steps=5, restarts=1)
    recipe = squeezing([probe], setup, bits=2)
    recipe.method_modules[KEY].value.fill_(0.05)
    batches = [batch["labeled"] for batch in setup.batches({"labeled"})]
    loader = DataLoader(Batches(batches), batch_size=None)
    small_trainer(setup).test(recipe, loader, verbose=False)
    found = recipe.latest
    for start in ("", "adaptive_"):
        for name in ("false_alarms", "auc", "tpr@5", "detected"):
            assert 0 <= found[f"test/{start}detection/{name}"] <= 1
    assert found["test/detection/false_alarms"] == pytest.approx(found[f"test/{KEY}/score_flagged"])
    assert found["test/adaptive_detection/detected"] <= found["test/detection/detected"]
    probe.evade = 0.0
    small_trainer(setup).test(recipe, loader, verbose=False)
