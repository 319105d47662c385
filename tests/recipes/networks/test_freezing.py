"""Freezing by name: what patterns mean, layers with statistics, and what is refused."""

import pytest
import torch

from foundation.errors import UserError
from recipes.config.resolve import resolve_command
from recipes.networks.build import build_network
from recipes.networks.freezing import first_trained, freeze_requested, is_meant
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble

SMALL = [
    *("data=digits", "network.name=vit_tiny_patch16_224", "network.input_size=8"),
    *("+network.options.patch_size=4", "+network.options.embed_dim=16"),
    *("+network.options.depth=2", "+network.options.num_heads=2"),
]


class Pictures:
    kind = "image"
    shape = (3, 32, 32)


def network(name="resnet20_cifar", **settings):
    made = build_network(Pictures(), {"label": 3}, name=name, **settings)
    freeze_requested(made)
    return made


def frozen(made):
    return {name for name, p in made.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("blocks.1", "backbone.blocks.1.mlp.weight", True),
        ("blocks.1", "backbone.blocks.11.mlp.weight", False),
        ("blocks.[01]", "backbone.blocks.1.mlp.weight", True),
        ("*.bias", "heads.label.bias", True),
        ("backbone", "backbone.conv1.weight", True),
        ("backbone", "heads.label.weight", False),
        ("conv", "backbone.conv1.weight", False),
    ],
)
def test_what_a_pattern_means(pattern, name, meant):
    assert is_meant(name, pattern) is meant


def test_frozen_layers_keep_their_statistics_and_the_rest_trains():
    made = network(freeze=["conv1", "bn1", "layer1"])
    assert frozen(made) == {
        name
        for name, _ in made.named_parameters()
        if name.startswith(("backbone.conv1.", "backbone.bn1.", "backbone.layer1."))
    }
    before = {name: value.clone() for name, value in made.named_buffers()}
    made.train()(made.embed(torch.rand(4, 3, 32, 32)))
    moved = {name for name, value in made.named_buffers() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(("backbone.bn1", "backbone.layer1")) for name in moved)


@pytest.mark.parametrize("kind", [True, "affine"])
def test_batchnorm_alone(kind):
    made = network(freeze_batchnorm=kind).train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    made(made.embed(torch.rand(4, 3, 32, 32)))
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())
    norms = {name for name, p in made.named_parameters() if "bn" in name and p.ndim == 1}
    assert frozen(made) & norms == (norms if kind == "affine" else set())


def test_the_first_step_of_several_patterns_counts_and_unfreezing_wins():
    made = network(freeze=["backbone"], unfreeze_at={"layer2": 0.5, "layer*": 30, "layer3": 0.2})
    steps = first_trained(made, 40)
    found = {name.split(".")[1]: step for name, step in steps.items()}
    assert found == {"layer1": 30, "layer2": 20, "layer3": 8}
    assert not any("layer" in name for name in frozen(made)) and "backbone.conv1.weight" in frozen(
        made
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"freeze": ["layr1"]},
            "network.freeze: 'layr1': matches no parameter; did you mean 'layer1'",
        ),
        ({"freeze": ["zzz"]}, "matches no parameter; the network has conv1, bn1, layer1"),
        ({"unfreeze_at": {"layerx": 3}}, "network.unfreeze_at: 'layerx': matches no parameter"),
        ({"unfreeze_at": {"*": 3}}, "nothing trains in the first step"),
        ({"name": "vit_tiny_patch16_224", "freeze_batchnorm": True}, "has no BatchNorm"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        network(**({"input_size": 224} if "name" in settings else {}), **settings)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["peft=lora", "network.freeze=[blocks.0]"], "network.freeze: a method of this run has"),
        (["peft=linear_probe", "network.unfreeze_at={blocks:3}"], "freezes all but the heads"),
        (
            [
                "data.source.tasks=[label,parity]",
                "multi_task=mgda",
                "network.unfreeze_at={blocks:3}",
            ],
            "compares gradients of weights that must train throughout",
        ),
        (["trainer.strategy=fsdp", "network.freeze=[blocks.0]"], "never tried with"),
    ],
)
def test_what_does_not_go_together_is_refused(command, message):
    with pytest.raises(UserError, match=message):
        assemble(resolve_command([*SMALL, *command]).config).meta_network()


def test_the_plan_says_what_is_frozen():
    command = [*SMALL, "network.freeze=[patch_embed]", "network.unfreeze_at={blocks.0: 0.25}"]
    assembly = assemble(resolve_command([*command, "trainer.max_steps=40"]).config)
    plan = describe(assembly, assembly.meta_network())
    assert "frozen: patch_embed, 272 parameters" in plan
    assert "frozen until step 10: blocks.0, " in plan
