import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback

from methods.regularization.sam import SAM
from methods.semi_supervised.temporal_ensembling import (
    TemporalEnsembling,
    accumulate,
    bias_corrected,
)
from tests.support.harness import UNLABELED_SAMPLES, Setup, build, fit, train


def targets_of(predictions: list[float], momentum: float) -> list[float]:
    average, found = torch.zeros(1, 1), []
    for k, prediction in enumerate(predictions, 1):
        average = accumulate(average, torch.tensor([[prediction]]), momentum)
        found.append(float(bias_corrected(average, torch.tensor([k]), momentum)))
    return found


def test_worked_example():
    assert targets_of([0.9, 0.5, 0.7], 0.6) == pytest.approx([0.9, 0.65, 0.6755102], abs=1e-6)


def test_limits():
    assert targets_of([0.9, 0.5, 0.7], 0.0) == pytest.approx([0.9, 0.5, 0.7])
    assert targets_of([0.3] * 6, 0.6) == pytest.approx([0.3] * 6)
    assert bias_corrected(torch.zeros(1, 2), torch.tensor([0]), 0.6).tolist() == [[0, 0]]


class Visits(Callback):
    """Every visit of a sample: (index, probabilities), and the term of its batch."""

    def __init__(self):
        self.batches = []

    def on_before_optimizer_step(self, trainer, recipe, optimizer):
        step = recipe._step
        p = torch.softmax(step.logits("unlabeled/weak", "label").detach(), 1)
        term = step.terms["temporal_ensembling"]
        self.batches.append((step.streams["unlabeled"].index, p, term.values.detach(), term.mask))


def watched(steps: int = 8, **settings):
    setup, visits = Setup(steps=steps, **settings), Visits()
    recipe = build({"temporal_ensembling": TemporalEnsembling(ramp="constant")}, setup)
    return fit(recipe, setup, visits), visits.batches


@pytest.mark.parametrize("kind", ["image", "text"])
def test_targets_equal_a_loop_over_the_samples_visits(kind):
    """Z and its correction by hand, sample by sample; a sample twice in a batch keeps its last
    prediction."""
    result, batches = watched(kind=kind)
    history: dict[int, list[torch.Tensor]] = {}
    compared = 0
    for index, p, values, mask in batches:
        for i, row, value, kept in zip(index.tolist(), p, values, mask.tolist(), strict=True):
            past = history.get(i, [])
            assert kept == bool(past)
            if past:
                k = len(past)
                q = sum(0.4 * 0.6 ** (k - 1 - j) * z for j, z in enumerate(past)) / (1 - 0.6**k)
                assert float(value) == pytest.approx(float(F.mse_loss(row, q)), abs=1e-6)
                compared += 1
        for i in set(index.tolist()):
            last = max(j for j, other in enumerate(index.tolist()) if other == i)
            history.setdefault(i, []).append(p[last])
    assert compared > 20
    memory = result.recipe.method_modules["temporal_ensembling"]["label"]
    assert memory.writes.tolist() == [len(history.get(i, [])) for i in range(UNLABELED_SAMPLES)]


def test_first_visits_teach_nothing_and_later_ones_do():
    result, batches = watched()
    assert result.history[0]["train/temporal_ensembling"] == 0
    last = result.history[-1]["train/temporal_ensembling"]
    _, _, values, mask = batches[-1]
    # visits without a target count in the denominator
    assert last == pytest.approx(float((values * mask).sum() / len(values)), abs=1e-7) and last > 0


def test_weight_holds_ramp_and_labeled_fraction():
    weights = []

    class Keep(TemporalEnsembling):
        def terms(self, step, recipe):
            super().terms(step, recipe)
            weights.append(step.terms[self.key].weight)

    train({"temporal_ensembling": Keep(weight=10.0, ramp="linear", ramp_end=0.5)}, steps=4, total=8)
    train(
        {"temporal_ensembling": Keep(weight=10.0, label_fraction=False, ramp="constant")}, steps=1
    )
    # the harness has 24 labels in 48 samples
    assert weights == pytest.approx([0, 1.25, 2.5, 3.75, 10])


def test_weight_zero_is_supervised_training():
    off, plain = (
        train({"temporal_ensembling": TemporalEnsembling(weight=0.0)}, steps=5),
        train(steps=5),
    )
    for name, value in plain.parameters.items():
        torch.testing.assert_close(off.parameters[name], value, atol=1e-6, rtol=0)


def test_a_replayed_batch_has_the_targets_of_its_first_pass_and_is_counted_once():
    seen = []

    class Watch(TemporalEnsembling):
        def terms(self, step, recipe):
            super().terms(step, recipe)
            memory = recipe.method_modules[self.key]["label"]
            seen.append((memory.table.clone(), memory.writes.clone(), step.terms[self.key].mask))

    result = train({"temporal_ensembling": Watch(ramp="constant"), "sam": SAM()}, steps=4)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert int(result.recipe.method_modules["temporal_ensembling"]["label"].writes.max()) <= 4


def test_every_micro_batch_is_remembered():
    setup = {"steps": 2, "accumulate": 3}
    result = train({"temporal_ensembling": TemporalEnsembling()}, **setup)
    visits = torch.zeros(UNLABELED_SAMPLES, dtype=torch.int64)
    for batch in Setup(**setup).batches({"unlabeled"}):
        visits[batch["unlabeled"]["index"].unique()] += 1
    assert torch.equal(result.recipe.method_modules["temporal_ensembling"]["label"].writes, visits)
