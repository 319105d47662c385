"""The points `surgery` and `save_artifacts`, and modules of a network that stay in evaluation mode."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import nn

from recipes.config.resolve import resolve_command
from recipes.contract import Method
from recipes.networks import build_network
from recipes.runs.plan import describe
from recipes.setup.assemble import assemble
from recipes.setup.spec import with_values
from tests.support.harness import Setup, build


class Halve(Method):
    """Freezes the backbone and scales its features by a learned number."""

    def surgery(self, network):
        network.backbone.requires_grad_(False)
        network.deltas[self.key] = Scale()
        network.dropout.register_forward_pre_hook(network.deltas[self.key].scale)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def scale(self, module, args):
        return args[0] * self.factor


def digits(norm=True):
    return build_network(
        SimpleNamespace(kind="image", shape=(3, 8, 8)), {"label": 3}, name="digits_cnn"
    )


def test_surgery_comes_before_build_and_before_the_averaged_network_is_copied():
    class Look(Method):
        def build(self, recipe):
            assert "halve" in recipe.network.deltas

    recipe = build({"look": Look(), "halve": Halve()}, Setup(), digits())
    assert [name for name, p in recipe.network.named_parameters() if p.requires_grad] == [
        "deltas.halve.factor", "heads.label.weight", "heads.label.bias"
    ]  # fmt: skip


def test_the_plan_counts_what_surgery_leaves():
    assembly = assemble(resolve_command(["recipe=supervised", "run_dir=unused"]).config)
    method = Halve()
    method.key = "halve"
    assembly.composition.methods["halve"] = method
    assembly.composition.declarations["halve"] = method.declare()
    sketch = assembly.meta_network()
    assert all(p.is_meta for p in sketch.parameters())
    trained = sum(p.numel() for p in sketch.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in sketch.parameters() if not p.requires_grad)
    node = {"_target_": "tests.recipes.contract.test_surgery.Halve"}
    config = with_values(assembly.config, {"methods": {"halve": node}})
    assembly = replace(assembly, config=config)
    assert f"{trained:,} trainable parameters, {frozen:,} frozen" in describe(assembly, sketch)


def test_still_modules_stay_in_evaluation_mode():
    network = digits()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    network.eval_only.append(norm)
    network.train()
    assert network.training
    assert not norm.training
    assert sum(not m.training for m in network.modules()) == 1


def test_an_example_is_what_the_network_takes_and_always_the_same():
    network = digits()
    assert network.example().x.shape == (2, 3, 8, 8)
    assert torch.equal(network.example().x, network.example().x)
    text = build_network(SimpleNamespace(kind="text", shape=None), {"label": 3}, vocab_size=50)
    x, mask, _ = text.example()
    assert x.shape == (2, 8, 128)
    assert mask.sum(1).tolist() == [8, 6]
    with torch.device("meta"):
        assert digits().example().x.is_meta
