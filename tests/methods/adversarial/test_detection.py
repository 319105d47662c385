"""Rates of a detector, from scores worked out by hand."""

import pytest
import torch

from methods.adversarial.detection import Detection, alarm_at, area_under_curve, rates
from recipes.contract import Remark


def test_the_alarm_is_the_score_that_a_share_of_the_clean_samples_exceeds():
    clean = torch.arange(1.0, 21.0)
    scores = clean[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
    assert float(alarm_at(scores, 0.05)) == 19  # ⌈0.95 · 20⌉
    assert float(alarm_at(scores, 0.1)) == 18
    assert float(alarm_at(scores, 0.12)) == 18  # ⌈17.6⌉
    assert float((scores > alarm_at(scores, 0.05)).float().mean()) == pytest.approx(0.05)
    assert float(alarm_at(torch.arange(10.0), 0.3)) == 6  # 0.7 · 10 is above 7 in floating point
    assert float(alarm_at(torch.tensor([3.0]), 0.9)) == 3


def test_the_area_is_the_chance_that_an_attack_scores_higher():
    clean, attacked = torch.tensor([0.1, 0.4, 0.2]), torch.tensor([0.4, 0.3])
    # pairs won: 0.4 beats 0.1 and 0.2 and ties with 0.4; 0.3 beats 0.1 and 0.2
    assert area_under_curve(clean, attacked) == pytest.approx((2 + 0.5 + 2) / 6)
    assert area_under_curve(clean, torch.tensor([9.0])) == 1
    assert area_under_curve(clean, torch.tensor([0.0])) == 0


def test_rates_count_successful_attacks_alone():
    clean = torch.arange(20.0)
    table = torch.zeros(20, 5)
    table[:, 0] = clean
    table[:, 1] = clean + 0.5
    table[:, 2] = (clean > 17).float()
    table[:, 3] = (table[:, 1] > 17).float()
    table[16:, 4] = 1  # the last four are successful: scores 16.5 … 19.5
    found = {name: float(value) for name, value in rates(table).items()}
    assert found == {
        "detection/false_alarms": pytest.approx(0.1),
        "detection/auc": pytest.approx((17 + 18 + 19 + 20) / 80),
        "detection/tpr@5": pytest.approx(0.5),  # above 18
        "detection/detected": pytest.approx(0.75),
    }
    table[:, 4] = 0
    assert list(rates(table)) == ["detection/false_alarms"]


class Scored:
    """A victim whose samples carry their scores: one column for each detector."""

    def __init__(self, alarms):
        self.alarms = alarms

    def remarks(self, x):
        found = {}
        for i, (name, alarm) in enumerate(self.alarms.items()):
            found[name] = Remark(x[:, i], None if alarm is None else torch.tensor(alarm))
        return found


def computed(detection):
    return {name: float(value) for name, value in detection.compute().items()}


def test_of_several_restarts_the_successful_one_with_the_smallest_score_counts():
    victim = Scored({"d/score": 1.0})
    clean = torch.zeros(4, 1)
    points = [
        clean,
        torch.tensor([[0.5], [3.0], [0.2], [0.1]]),
        torch.tensor([[2.0], [2.0], [4.0], [9.0]]),
    ]
    success = torch.tensor([[True, True, False, False], [True, True, True, False]])
    detection = Detection()
    detection.add(victim, points, success)
    found = computed(detection)
    # 0.5 is not flagged, 2.0 and 4.0 are; the fourth was never successful
    assert found["detection/detected"] == pytest.approx(2 / 3)
    assert found["detection/false_alarms"] == 0
    assert found["undetected_success"] == pytest.approx(1 / 4)
    detection.reset()
    assert computed(detection) == {}


def test_success_is_undetected_only_if_no_detector_flags_it():
    victim = Scored({"a/score": 1.0, "b/score": 1.0, "c/score": None})
    clean = torch.zeros(3, 3)
    point = torch.tensor([[2.0, 0.0, 9.0], [0.0, 2.0, 9.0], [0.0, 0.0, 9.0]])
    detection = Detection()
    detection.add(victim, [clean, point], torch.ones(1, 3, dtype=torch.bool))
    found = computed(detection)
    assert found["undetected_success"] == pytest.approx(1 / 3)
    assert found["a/score/detection/detected"] == pytest.approx(1 / 3)
    assert not any(name.startswith("c/") for name in found)


def test_a_run_without_detectors_measures_nothing():
    detection = Detection()
    detection.add(Scored({"c/score": None}), [torch.zeros(2, 1)] * 2, torch.ones(1, 2) > 0)
    assert computed(detection) == {}
