"""`trainer.compile`: one graph a network, the eager numbers, whatever methods do to weights, inputs
and gradients."""

import copy
import os
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.networks.network import Network
from recipes.setup.assemble import assemble
from tests.support.lab import trial
from tests.support.tiny_runs import METHODS, declared, run_of

VIT = [
    f"+network.options.{name}"
    for name in ("patch_size=4", "embed_dim=32", "depth=2", "num_heads=2")
]
NETWORKS = {
    "digits_cnn": ["data=digits", "network.name=digits_cnn"],
    "wrn_28_2": ["data=digits", "network.name=wrn_28_2", "network.input_size=16"],
    "resnet20_cifar": ["data=digits", "network.name=resnet20_cifar", "network.input_size=16"],
    "vit": ["data=digits", "network.name=vit_tiny_patch16_224", *VIT, "network.input_size=16"],
    "text": ["data=docstrings", "recipe=text_supervised", "network.pretrained=false"],
    "lora_text": ["data=docstrings", "recipe=lora_text", "network.pretrained=false"],
    "lora_image": [
        "data=digits",
        "recipe=lora_image",
        "network.input_size=16",
        "network.pretrained=false",
    ],
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def network_of(*overrides: str) -> Network:
    assembly = assemble(resolve_command([*overrides, "run_dir=unused"]).config)
    torch.manual_seed(0)
    network = assembly.build_network(dict.fromkeys(assembly.datamodule.info.tasks, 4))
    for method in assembly.composition.implementing("surgery"):
        method.surgery(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # compiled draws are other draws
    return network


def step(network):
    """Logits and gradients of one forward and backward."""
    network.zero_grad()
    (logits,) = network(network.example()).logits.values()
    logits.square().sum().backward()
    gradients = {
        name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None
    }
    return logits.detach(), gradients


def sampled(names, quick):
    """All, of which those that are not named are slow."""
    return [
        pytest.param(name, marks=() if name in quick else (pytest.mark.slow,)) for name in names
    ]


@pytest.mark.parametrize("name", sampled(NETWORKS, ["digits_cnn", "lora_text"]))
def test_one_graph_that_computes_the_same(name):
    network = network_of(*NETWORKS[name])
    names = list(network.state_dict())
    for mode in (True, False):
        network.train(mode)
        expected, slopes = step(network)
        twin = copy.deepcopy(network)
        twin.compile(backend="aot_eager", fullgraph=True)  # raises where the graph would break
        found, gradients = step(twin)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert slopes.keys() == gradients.keys() and slopes
        for key, slope in slopes.items():
            torch.testing.assert_close(gradients[key], slope, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 2
    assert list(twin.state_dict()) == names


def test_a_copy_computes_with_its_own_weights():
    network = network_of(*NETWORKS["digits_cnn"]).eval()
    network.compile(backend="eager")
    before = network(network.example()).features
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert twin(network.example()).features.abs().max() == 0
    assert torch.equal(network(network.example()).features, before)


COMBINED = {
    "alone": ("image", [], {}),
    "averaged_semi_supervised": ("image", ["fixmatch", "ema"], {}),
    "perturbed_weights": ("image", ["sam"], {}),
    "perturbed_by_an_adversary": ("image", ["pgd_at", "awp"], {}),
    "own_deltas_on_texts": ("text", ["lora", "freelb"], {}),
    "gates": ("image", ["mgda"], {}),
    "backwards_through_the_network": ("image", ["mgda"], {"methods.mgda.grad_source": "shared"}),
    "features_by_task": ("image", ["cross_stitch", "uncertainty"], {}),
}


@pytest.mark.parametrize("name", sampled(COMBINED, ["averaged_semi_supervised", "gates"]))
def test_a_compiled_run_is_the_eager_one(name):
    kind, keys, changes = COMBINED[name]
    # dropout draws otherwise when compiled
    quiet = (
        {}
        if kind == "image"
        else {
            "network.options.hidden_dropout_prob": 0.0,
            "network.options.attention_probs_dropout_prob": 0.0,
        }
    )
    compare(run_of(kind, *keys, **changes, **quiet))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor writes C++"
)
def test_machine_code_computes_the_same():
    compare(run_of("image", "fixmatch", "ema"), True)


def compare(config, compiler="aot_eager"):
    eager = trial(copy.deepcopy(config))
    counters.clear()
    config.trainer.compile = compiler
    compiled = trial(config)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    assert compiled.state.keys() == eager.state.keys()
    for step_, row in eager.history.items():
        for metric, value in row.items():
            assert compiled.history[step_][metric] == pytest.approx(value, rel=2e-3, abs=2e-4), (
                step_,
                metric,
            )


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(
        UserError,
        match="multi_task=mtan cannot be compiled: its masks are hung into the trunk anew",
    ):
        assemble(run_of("image", "mtan", **{"trainer.compile": True}))


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in METHODS if declared(key).uncompiled is None])
def test_every_method_trains_compiled_without_a_graph_break(key):
    config = run_of(declared(key).modalities[0], key)
    config.trainer.compile = "aot_eager"
    outcome = trial(config)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    assert all(value == value for row in outcome.history.values() for value in row.values())
