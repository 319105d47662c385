"""Gradient checkpointing: the outputs, gradients and running statistics of a run without it, less
memory, and networks that have none."""

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.networks.build import build_network
from recipes.networks.checkpointed import recompute_in_backward
from recipes.networks.image import ImageNetwork
from recipes.runs.start import ready, start
from recipes.setup.assemble import assemble
from recipes.step.batchnorm import BatchNorms

SIZES = {"test_resnet": 64, "test_vit": 32, "test_byobnet": 64}


class Pictures:
    kind = "image"
    shape = (3, 32, 32)


class Texts:
    kind = "text"
    shape = None


def pair(name, **settings):
    """The same network without and with it."""
    info = Texts() if name == "roux_text_small" else Pictures()
    made = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        more = settings | {"gradient_checkpointing": recomputes}
        made.append(build_network(info, {"label": 3}, name=name, **more))
    return made


def step(network, size, mode=True):
    """Logits, gradients and buffers of a forward and backward with dropout."""
    network.train(mode)
    torch.manual_seed(1)
    if network.kind == "image":
        embedded = network.embed(torch.rand(4, 3, size, size))
    else:
        embedded = network.example()
    torch.manual_seed(2)
    logits = network(embedded).logits["label"]
    logits.logsumexp(1).sum().backward()
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    return {"logits": logits, **gradients, **dict(network.named_buffers())}


def same(one, other):
    assert one.keys() == other.keys()
    return [
        name for name, value in one.items() if not torch.allclose(value, other[name], atol=1e-6)
    ]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", [*SIZES, "roux_text_small"])
def test_a_step_is_that_without_it(name, mode):
    options = {"proj_drop_rate": 0.2} if name == "test_vit" else {}
    text = {"vocab_size": 50} if name == "roux_text_small" else {"options": options}
    plain, recomputed = pair(name, **text)
    size = SIZES.get(name, 0)
    assert same(step(plain, size, mode), step(recomputed, size, mode)) == []
    assert recomputed.recomputes and not plain.recomputes


def test_a_forward_without_updates_is_recomputed_as_it_was():
    plain, recomputed = pair("test_resnet")
    results = []
    for network in (plain, recomputed):
        before = {name: value.clone() for name, value in network.named_buffers()}
        norms = BatchNorms(network)
        with norms.frozen():
            logits = network(network.embed(torch.ones(4, 3, 64, 64))).logits["label"]
        logits.sum().backward()
        assert same(before, dict(network.named_buffers())) == []
        results.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert same(*results) == []


def saved(network, size):
    """Elements that a forward keeps for the backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(network.embed(torch.rand(8, 3, size, size)))
    weights = {p.data_ptr() for p in network.parameters()}
    return sum(size for at, size in kept.items() if at not in weights)


def test_it_keeps_less():
    plain, recomputed = pair("test_vit", options={"depth": 8}, input_size=32)
    assert saved(recomputed, 32) < 0.5 * saved(plain, 32)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", ["wrn_28_2", "wrn_37_2", "resnet20_cifar", "digits_cnn"])
def test_a_step_of_our_own_networks_is_bit_identical(name, mode):
    plain, recomputed = pair(name)
    one, other = step(plain, 32, mode), step(recomputed, 32, mode)
    assert one.keys() == other.keys()
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []
    assert saved(recomputed, 32) < 0.7 * saved(plain, 32)


@pytest.mark.parametrize(
    ("name", "stage"), [("wrn_28_2", "blocks.3"), ("resnet20_cifar", "layer1")]
)
def test_the_features_of_a_stage_are_those_without_it(name, stage):
    seen = []
    for network in pair(name):
        network.tap(stage)
        torch.manual_seed(1)
        output = network(network.embed(torch.rand(4, 3, 32, 32)))
        (output.taps[stage].square().mean() + output.logits["label"].square().mean()).backward()
        weight = network.backbone.conv1.weight
        seen.append((output.taps[stage], weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@pytest.mark.parametrize("name", ["vgg11", "dla34"])
def test_a_network_without_it_is_refused(name):
    with pytest.raises(UserError, match=r"network\.gradient_checkpointing=true: \w+ has no grad"):
        build_network(Pictures(), {"label": 3}, name=name, gradient_checkpointing=True)


def test_a_backbone_that_does_not_know_it_is_refused():
    network = ImageNetwork(nn.Flatten(), 12, {"label": 3}, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(UserError, match="Flatten has no gradient checkpointing"):
        recompute_in_backward(network)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("trainer.compile=aot_eager", "a compiled BatchNorm would update"),
        ("trainer.strategy=fsdp", "was never tried with"),
    ],
)
def test_what_does_not_go_together_is_refused(more, message):
    command = [*RUN[:3], "network.gradient_checkpointing=true", "trainer.devices=2", more]
    with pytest.raises(UserError, match=message):
        assemble(resolve_command(command).config).meta_network()


RUN = [
    *("data=digits", "network.input_size=32", "trainer.max_steps=4", "network.name=test_resnet"),
    *("data.batch_size=8", "trainer.accelerator=cpu", "trainer.progress_bar=false"),
    *("recipe=fixmatch", "data.unlabeled_ratio=1", "averaging=ema", "regularization=sam"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "wrn_28_2"])
def test_a_run_is_that_without_it(name, tmp_path):
    """Forwards with and without updates, two passes a step, an averaged network."""
    states = []
    for recomputes in ("false", "true"):
        folder = tmp_path / recomputes
        more = [f"network.gradient_checkpointing={recomputes}", f"run_dir={folder}"]
        start(ready([*RUN, *more, f"network.name={name}"]))
        states.append(torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"])
    assert same(*states) == []


@pytest.mark.slow
def test_a_compiled_network_recomputes_too():
    torch._dynamo.reset()
    plain, recomputed = pair("test_vit", input_size=32)
    recomputed.compile(backend="aot_eager", fullgraph=True)
    assert same(step(plain, 32), step(recomputed, 32)) == []
    torch._dynamo.reset()
