"""A batch that cannot hold what a loss compares is one line, before data is read."""

import pytest

from datamodules.pk_order import MakePKOrder
from foundation.errors import UserError
from methods.metric_learning.magnet import Magnet
from methods.metric_learning.npair import NPair
from methods.metric_learning.pk import PK
from methods.metric_learning.proxy_nca import ProxyNCA
from methods.metric_learning.quadruplet import Quadruplet
from methods.metric_learning.triplet import Triplet
from recipes.contract import Method
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.setup.batch_checks import check_batch_contents

ENVIRONMENT = Environment("image", frozenset({"weak"}), data="digits")


def check(methods: dict[str, Method], batch_size: int, **classes: int | None) -> None:
    environment = Environment(
        "image",
        frozenset({"weak"}),
        data="pairs",
        families=dict.fromkeys(methods, "metric_learning"),
    )
    composition = compose(methods, environment)
    check_batch_contents(composition, environment, batch_size, classes or {"label": 10})


@pytest.mark.parametrize(
    ("methods", "batch_size", "classes", "message"),
    [
        (
            {"triplet": Triplet()},
            2,
            {},
            r"data\.batch_size=2: metric_learning=triplet learns from batches of at least 3 samples; "
            "expected at least 3",
        ),
        ({"npair": NPair()}, 3, {}, r"npair learns from batches of at least 4 samples"),
        (
            {"quadruplet": Quadruplet(), "pk": PK(4)},
            8,
            {},
            r"data\.batch_size=8: with methods\.pk\.samples_per_class=4 a batch has 2 of the 3 "
            r"classes that metric_learning=quadruplet compares; expected at least "
            r"data\.batch_size=12",
        ),
        (
            {"quadruplet": Quadruplet()},
            8,
            {"label": 2},
            "data=pairs: metric_learning=quadruplet compares samples of 3 classes, and no task has "
            "more than 2; choose data with more classes, or another loss",
        ),
        (
            {"triplet": Triplet(), "pk": PK(4)},
            10,
            {},
            r"data\.batch_size=10: is no multiple of methods\.pk\.samples_per_class=4; expected e\.g\. "
            "8 or 12",
        ),
        (
            {"magnet": Magnet()},
            32,
            {},
            r"data\.batch_size=32: a batch has methods\.magnet\.clusters_in_batch=8 clusters with "
            r"methods\.magnet\.samples_per_cluster=8 samples each; expected data\.batch_size=64",
        ),
    ],
    ids=["triplet", "npair", "quadruplet in pk", "quadruplet in data", "pk", "magnet"],
)
def test_what_no_batch_can_hold_is_one_line(methods, batch_size, classes, message):
    with pytest.raises(UserError, match=message):
        check(methods, batch_size, **classes)


def test_what_a_batch_may_hold_is_let_through():
    check({"proxy_nca": ProxyNCA()}, 1)
    check({"triplet": Triplet(), "pk": PK(4)}, 8)
    check({"quadruplet": Quadruplet()}, 8, label=2, other=5)
    check({"quadruplet": Quadruplet()}, 8, label=None)
    assert isinstance(compose({"pk": PK()}, ENVIRONMENT).orders["labeled"], MakePKOrder)
