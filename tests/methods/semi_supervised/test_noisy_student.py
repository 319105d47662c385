from types import SimpleNamespace

import pytest
import torch

from foundation.randomness import generator
from methods.semi_supervised.noisy_student import (
    NoisyStudent,
    TeacherPredictions,
    repeat_to,
    select_balanced,
)
from recipes.step import Stream
from tests.support.harness import step_with


def table(*rows):
    return torch.tensor(rows)


def source():
    return generator(0, "test")


Q = table(
    [0.9, 0.1, 0.0],
    [0.7, 0.2, 0.1],
    [0.5, 0.3, 0.2],
    [0.1, 0.8, 0.1],
    [0.35, 0.33, 0.32],
    [0.2, 0.2, 0.6],
    [0.0, 0.4, 0.6],
)


def test_every_class_comes_equally_often_the_surest_first():
    assert select_balanced(Q, 0.3, 2, source()).tolist() == [0, 1, 3, 3, 5, 6]
    assert select_balanced(Q, 0.3, 1, source()).tolist() == [0, 3, 5]


def test_as_many_as_the_largest_class_has():
    chosen = select_balanced(Q, 0.3, None, source())
    assert torch.bincount(Q[chosen].argmax(1)).tolist() == [4, 4, 4]
    assert chosen[:4].tolist() == [0, 1, 2, 4] and chosen[4:8].tolist() == [3] * 4
    assert torch.bincount(chosen, minlength=7)[5:].tolist() == [2, 2]


def test_the_rest_of_a_round_is_random_and_has_no_sample_twice():
    rows = torch.arange(10)
    draws = {
        tuple(repeat_to(13, rows, generator(seed, "test"))[10:].tolist()) for seed in range(20)
    }
    assert len(draws) > 10 and all(len(set(draw)) == 3 for draw in draws)
    counts = torch.bincount(repeat_to(25, rows, source()))
    assert counts.min() == 2 and counts.max() == 3 and counts.sum() == 25


def test_threshold_and_no_balance():
    assert sorted(select_balanced(Q, 0.6, 0, source()).tolist()) == [0, 1, 3, 5, 6]
    assert len(select_balanced(Q, 0.95, None, source())) == 0


@pytest.mark.parametrize(("kind", "weight"), [("one", 1.0), ("ratio", 3.0), ("share", 0.75)])
def test_the_weight_of_the_unlabeled_loss(kind, weight):
    """U/B and U/(B + U) of 12 unlabeled and 4 labeled samples."""
    method = NoisyStudent(unlabeled_weight=kind, threshold=0.0)
    method.key = "noisy_student"
    step = step_with({"unlabeled/strong": torch.zeros(12, 3)})
    for name, rows in (("labeled", 4), ("unlabeled", 12)):
        step.streams[name] = Stream(name, None, {}, torch.arange(rows))
    predictions = TeacherPredictions({"label": 3}, 12)
    predictions.write({"label": torch.full((12, 3), 1 / 3)})
    context = SimpleNamespace(method_modules={"noisy_student": predictions})
    method.terms(step, context)
    assert step.terms["noisy_student"].weight == weight


def test_other_predictions_select_other_samples():
    method = NoisyStudent(threshold=0.6, per_class=0)
    method.key = "noisy_student"
    predictions = TeacherPredictions({"label": 3}, 7)
    method._table = predictions
    context = SimpleNamespace(method_modules={"noisy_student": predictions})
    for q in (Q, Q.flip(0), Q[[0, 4, 4, 4, 4, 4, 4]]):
        method.surveyed(None, {"label": q, "index": torch.arange(7)}, context)
        chosen = (q.amax(1) >= 0.6).nonzero().flatten().tolist()
        assert sorted(method._selected().tolist()) == chosen
