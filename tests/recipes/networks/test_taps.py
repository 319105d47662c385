"""Features of inner stages: names, values, gradients, and no hook that stays."""

import pytest
import torch

from methods.semi_supervised.fixmatch import FixMatch
from recipes.contract import Method
from recipes.networks.taps import INPUT, stage_names, tapped
from recipes.step.forward import split
from tests.support.harness import Setup, build, fit
from tests.support.small_networks import network


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vit", ["blocks.0", "blocks.1"]),
        ("swin", ["layers.0", "layers.1"]),
        ("resnet", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("digits_cnn", ["layers.2", "layers.5", "layers.8", "layers.11"]),
        ("bert", ["encoder.layer.0", "encoder.layer.1"]),
        ("distilbert", ["transformer.layer.0", "transformer.layer.1"]),
        ("modernbert", ["layers.0", "layers.1"]),
    ],
)
def test_networks_name_their_stages(name, stages):
    made = network(name)
    assert stage_names(made.backbone) == stages
    assert made.stages() == [INPUT, *stages]


def hooks(made):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.modules())


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_outputs_have_what_was_requested(name):
    made = network(name).eval()
    plain = made(made.example())
    assert plain.taps == {}
    stages = made.stages()
    made.tap(stages[-1], INPUT)
    made.tap(stages[-1])
    found = made(made.example())
    assert torch.equal(found.features, plain.features) and hooks(made) == 0
    assert set(found.taps) == {INPUT, stages[-1]}
    between = made.backbone.get_submodule(stages[1])
    # the stages by hand, from what enters the first to what leaves the last
    x = found.taps[INPUT]
    for stage in stages[1:]:
        if name == "bert":
            mask = made.example().mask[:, None, None, :]
            x = made.backbone.get_submodule(stage)(x, attention_mask=mask)
            x = x[0] if isinstance(x, tuple) else x
        else:
            x = made.backbone.get_submodule(stage)(x)
    expected = found.taps[stages[-1]]
    real = slice(None) if name != "bert" else made.example().mask
    torch.testing.assert_close(x[real], expected[real], atol=1e-5, rtol=1e-5)
    weight = next(between.parameters())
    (gradient,) = torch.autograd.grad(expected.square().sum(), [weight])
    assert gradient.any()


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match=r"no stage is named 'blocks.7'; there are input, blocks"):
        network("vit").tap("blocks.7")


def test_hooks_go_when_the_forward_fails():
    made = network("vit")
    made.tap("blocks.0")
    with pytest.raises(RuntimeError):
        made(made.example()._replace(x=torch.zeros(2, 5, 32, 32)))
    assert hooks(made) == 0


def test_of_a_module_that_runs_several_times_the_last_output_counts():
    made = network("albert").eval()
    (group,) = stage_names(made.backbone)
    with tapped(made.backbone, [group]) as seen:
        output = made.backbone(inputs_embeds=made.example().x)
    assert torch.equal(seen[group], output.last_hidden_state)


def test_batches_that_were_joined_are_split():
    made = network("vit").eval()
    made.tap("blocks.1")
    x = made.example().x
    whole = made(made.example()._replace(x=torch.cat([x, x[:1]])))
    one, other = split(whole, [2, 1])
    assert torch.equal(
        torch.cat([one.taps["blocks.1"], other.taps["blocks.1"]]), *whole.taps.values()
    )
    assert len(one.taps["blocks.1"]) == 2


class Hints(Method):
    """Pulls the class token of the first block of weak and strong views together."""

    def build(self, context):
        context.network.tap("blocks.0")

    def terms(self, step, context):
        seen = [step.outputs[name].taps["blocks.0"] for name in step.outputs]
        assert [len(part) for part in seen] == [len(step.outputs[n].features) for n in step.outputs]
        step.term("hints", seen[0].square().mean((1, 2)))


def test_a_method_reads_them_in_a_step():
    """Also where one forward serves the inputs of several methods."""
    setup = Setup(tasks={"label": 5}, steps=2)
    methods = {"hints": Hints(), "fixmatch": FixMatch(threshold=0.0)}
    vit = network("vit")
    vit.backbone.patch_embed.strict_img_size = False
    vit.input_size = (32, 32)
    done = fit(build(methods, setup, vit), setup, *methods.values())
    assert all(row["train/hints"] > 0 for row in done.history[:2])
