from types import SimpleNamespace

import pytest
import torch

from foundation.errors import UserError
from methods.peft.adapter import Adapter
from methods.peft.mam_adapter import MAMAdapter
from methods.peft.prefix_tuning import PrefixTuning
from tests.support.small_networks import (
    counts,
    features,
    fill,
    network,
    operate,
    says_the_same_whatever_is_padding,
)

SMALL = {"length": 3, "hidden": 8, "bottleneck": 8}
NETWORKS = ["vit", "eva", "bert", "roberta", "modernbert"]


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_a_prefix_and_parallel_adapters(name):
    """The same as both methods side by side, with equal weights."""
    made = operate(MAMAdapter(**SMALL, scale=2.0), network(name), "mam")
    fill(made, "mam", 0.3)
    both = operate(PrefixTuning(length=3, hidden=8), network(name), "prefix")
    operate(Adapter("parallel", bottleneck=8, scale=2.0), both, "adapter")
    both.deltas["prefix"].load_state_dict(made.deltas["mam"]["prefix"].state_dict())
    both.deltas["adapter"].load_state_dict(made.deltas["mam"]["adapters"].state_dict())
    assert torch.equal(features(made), features(both))
    assert float((features(made) - features(network(name))).abs().max()) > 1e-3


def test_adapters_start_without_effect():
    made = operate(MAMAdapter(**SMALL), network("vit"), "mam")
    prefix = operate(PrefixTuning(length=3, hidden=8), network("vit"), "prefix")
    prefix.deltas["prefix"].load_state_dict(made.deltas["mam"]["prefix"].state_dict())
    assert torch.equal(features(made), features(prefix))


def test_padding_changes_nothing():
    made = operate(MAMAdapter(**SMALL), network("bert"), "mam")
    fill(made, "mam", 0.3)
    assert says_the_same_whatever_is_padding(made, network("bert"))


def test_parameters_and_their_decay():
    made = operate(MAMAdapter(**SMALL), network("bert"), "mam")
    prefix = 3 * 32 + (32 * 8 + 8) + 8 * 2 * 2 * 32 + 2 * 2 * 32
    assert counts(made)[0] == prefix + 2 * (2 * 32 * 8 + 8 + 32)
    method = MAMAdapter()
    method.key = "mam"
    (group,) = method.parameter_groups(SimpleNamespace(network=made))
    assert group["weight_decay"] == 0 and sum(p.numel() for p in group["params"]) == prefix


@pytest.mark.parametrize(
    ("name", "words"),
    [("resnet", "methods.mam: a prefix needs attention, and ResNet has"), ("swin", "differ in w")],
)
def test_networks_without_such_attention_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        operate(MAMAdapter(), network(name), "mam")
