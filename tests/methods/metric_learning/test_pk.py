import pytest
import torch

from foundation.errors import UserError
from methods.metric_learning.pk import PK
from methods.metric_learning.triplet import Triplet
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from tests.support.lab import trial
from tests.support.tiny_runs import run_of

ENVIRONMENT = Environment("image", frozenset({"raw", "weak"}))
LABELS = torch.arange(5).repeat(9)


def test_the_labeled_stream_comes_in_its_order():
    composition = compose({"triplet": Triplet(), "pk": PK(samples_per_class=3)}, ENVIRONMENT)
    assert composition.slots["sampler"] == "pk"
    order = composition.orders["labeled"]({"label": LABELS}, 6, 1, 0, "labeled")
    assert LABELS[order.take(0, 6)].unique(return_counts=True)[1].tolist() == [3, 3]


def test_one_method_orders_the_samples():
    with pytest.raises(UserError, match="both own the order in which labeled samples come"):
        compose({"pk": PK(), "other": PK()}, ENVIRONMENT)


def test_messages_name_the_key_of_the_method():
    make = compose({"classes_of_four": PK()}, ENVIRONMENT).orders["labeled"]
    with pytest.raises(UserError, match=r"methods\.classes_of_four\.samples_per_class=4"):
        make({"label": LABELS}, 6, 1, 0, "labeled")


def test_every_anchor_of_a_real_run_has_positives_and_negatives():
    outcome = trial(
        run_of(
            "image", "triplet", "pk", **{"methods.pk.samples_per_class": 2, "data.batch_size": 8}
        )
    )
    labels = outcome.recipe.last_step.streams["labeled"].targets["label"]
    assert labels.unique(return_counts=True)[1].tolist() == [2, 2, 2, 2]
