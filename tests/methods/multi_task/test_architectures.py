"""Where tasks part: hard sharing, cross-stitch, MTAN, on real backbones of several families."""

import copy

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.multi_task.cross_stitch import CrossStitch, Stitch, start_alpha, stitch
from methods.multi_task.gram import ONE_REPRESENTATION
from methods.multi_task.hard_sharing import HardSharing
from methods.multi_task.mgda import MGDA
from methods.multi_task.mtan import MTAN
from methods.multi_task.nash_mtl import NashMTL
from methods.multi_task.pcgrad import PCGrad
from methods.multi_task.stages import Columns, layers_of, named_stages
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.networks.build import build_network
from recipes.step import Embedded
from tests.support.harness import Setup, build, fit

TASKS = {"shape": 3, "colour": 4}
VIT = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 16, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 1, 1), "drop_path_rate": 0.0}
SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
BACKBONES = {
    "digits_cnn": {"width": 4},
    "resnet20_cifar": {},
    "resnet18": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "convnext_atto": SMALL,
    "vit_tiny_patch16_224": VIT,
    "swin_tiny_patch4_window7_224": SWIN,
    "mobilenetv3_small_050": {},
}
EACH = pytest.mark.parametrize("name", BACKBONES)


class Pictures:
    kind = "image"

    def __init__(self, side: int):
        self.shape = (3, side, side)


def network_of(name: str = "digits_cnn", seed: int = 0):
    torch.manual_seed(seed)
    side = 32 if name.startswith("vit") else 64
    return build_network(
        Pictures(side), TASKS, name=name, options=dict(BACKBONES.get(name, {})) or None
    )


def rebuilt(method, network):
    """The recipe's network after the method's surgery."""
    return build({method.key or "m": method}, Setup(tasks=TASKS), network).network


def pictures(network, rows: int = 3) -> Embedded:
    return Embedded(
        torch.rand(
            rows, 3, *(network.input_size or (64, 64)), generator=torch.Generator().manual_seed(1)
        )
    )


def randomised(module: nn.Module, seed: int = 5) -> nn.Module:
    """Other weights than those it was built with, so that copies can be told apart."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=source))
    return module


# -- columns ---------------------------------------------------------------------------------------
@EACH
def test_columns_begin_as_the_backbone_itself(name):
    network = network_of(name).eval()
    x = pictures(network)
    before, features = network(x).logits, network.features(x)
    after = rebuilt(CrossStitch(), network).eval()
    found = after(x)
    for task in TASKS:
        torch.testing.assert_close(after.features(x)[task], features, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.logits[task], before[task], atol=1e-5, rtol=1e-4)
    assert found.features.shape == (3, network.feature_dim)


@pytest.mark.parametrize(
    "name", ["digits_cnn", "resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_unstitched_columns_are_independent_networks(name):
    """α = I: outputs and gradients in training mode are those of separate networks."""
    method = CrossStitch(own=1.0)
    joint = rebuilt(method, network_of(name)).train()
    with torch.no_grad():
        for layer in joint.modules():
            if isinstance(layer, Columns):
                for i, column in enumerate(layer.copies):
                    randomised(column, seed=i)
    x = pictures(joint)
    logits = joint(x).logits
    sum(values.square().sum() for values in logits.values()).backward()
    for i, task in enumerate(TASKS):
        alone = network_of(name).train()
        for layer in layers_of(alone, "x"):
            if layer.trained:
                randomised(layer.module, seed=i)
        alone.heads = copy.deepcopy(joint.heads)
        alone.zero_grad()
        out = alone(x).logits[task]
        out.square().sum().backward()
        torch.testing.assert_close(logits[task], out, atol=1e-4, rtol=1e-4)
        columns = dict(joint.backbone.trunk.named_parameters())
        for layer in layers_of(alone, "x"):
            for key, parameter in layer.module.named_parameters():
                mine = columns[f"{layer.name}.copies.{i}.{key}"].grad
                torch.testing.assert_close(mine, parameter.grad, atol=1e-3, rtol=1e-3)


def test_stages_of_a_transformer_are_four():
    network = build_network(
        Pictures(32), TASKS, name="vit_tiny_patch16_224", options=VIT | {"depth": 12}
    )
    assert named_stages(network.backbone) == [f"blocks.{i}" for i in (2, 5, 8, 11)]


def test_frozen_weights_are_held_once():
    network = network_of()
    network.backbone.layers[0].weight.requires_grad_(False)
    rebuilt(CrossStitch(), network)
    first, second = network.backbone.trunk.layers[0].copies
    assert first.weight is second.weight
    first, second = network.backbone.trunk.layers[3].copies
    assert first.weight is not second.weight


@pytest.mark.parametrize(
    "method", [CrossStitch(), MTAN(), HardSharing(split_stage=0)], ids=lambda m: type(m).__name__
)
def test_a_backbone_that_cannot_be_staged_is_refused_in_one_line(method):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3)
            self.feature_info = [{"module": "body"}]

        def forward(self, x):
            return (self.body(x) + self.body(x.flip(3))).mean((2, 3))

    network = network_of()
    network.backbone, network.feature_dim = Odd(), 8
    with pytest.raises(
        UserError,
        match=r"cannot cut network.name into stages .*'body'.*: expected one like resnet18",
    ):
        rebuilt(method, network)
    network.backbone.feature_info = []
    with pytest.raises(UserError, match=r"cannot cut network.name into stages"):
        rebuilt(method, network)


# -- cross-stitch ----------------------------------------------------------------------------------
def test_the_worked_stitch():
    alpha = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).unsqueeze(2)
    found = stitch([torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0]])], alpha, 1)
    torch.testing.assert_close(torch.cat(found), torch.tensor([[1.9, 3.8], [9.1, 18.2]]))


def test_stitching_is_by_channel_and_its_gradient_is_the_transpose():
    source = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 4, generator=source, requires_grad=True) for _ in range(2)]
    alpha = torch.randn(2, 2, 4, generator=source, requires_grad=True)
    up = torch.randn(2, 2, 3, 4, generator=source)
    out = torch.stack(stitch(parts, alpha, 2))
    torch.testing.assert_close(out, torch.einsum("ijc,jnlc->inlc", alpha, torch.stack(parts)))
    *down, slope = torch.autograd.grad((out * up).sum(), [*parts, alpha])
    torch.testing.assert_close(torch.stack(down), torch.einsum("ijc,inlc->jnlc", alpha, up))
    torch.testing.assert_close(slope, torch.einsum("inlc,jnlc->ijc", up, torch.stack(parts)))


def test_alpha_at_the_start():
    alpha = start_alpha(4, 5, 0.7)
    assert alpha.shape == (4, 4, 5)
    torch.testing.assert_close(alpha.sum(1), torch.ones(4, 5))
    assert float(alpha[1, 1, 2]) == pytest.approx(0.7) and float(alpha[1, 2, 2]) == pytest.approx(
        0.1
    )


def test_equal_rows_make_columns_take_the_same():
    network = rebuilt(CrossStitch(), network_of()).eval()
    for unit in (m for m in network.modules() if isinstance(m, Stitch)):
        unit.alpha.data.copy_(torch.tensor([0.3, 0.7]).view(1, 2, 1).expand_as(unit.alpha))
    for layer in network.modules():
        if isinstance(layer, Columns):
            randomised(layer.copies[1])
    by_task = network.features(pictures(network))
    torch.testing.assert_close(by_task["shape"], by_task["colour"])
    assert not torch.equal(network_of().eval().features(pictures(network)), by_task["shape"])


def test_alphas_have_their_own_rate_and_no_decay():
    network = rebuilt(CrossStitch(lr_scale=100.0, per_channel=False), network_of())
    alphas = [m.alpha for m in network.modules() if isinstance(m, Stitch)]
    assert len(alphas) == 4
    assert all(
        (a._lr_scale, a._weight_decay, tuple(a.shape)) == (100.0, 0.0, (2, 2, 1)) for a in alphas
    )


# -- hard sharing ----------------------------------------------------------------------------------
@EACH
def test_layers_before_the_split_are_shared_and_those_after_are_copied(name):
    plain, network = network_of(name).eval(), network_of(name)
    split = rebuilt(HardSharing(split_stage=1), network).eval()
    x = pictures(network)
    for task, features in split.features(x).items():
        torch.testing.assert_close(features, plain.features(x), atol=1e-5, rtol=1e-4, msg=task)
    loss = split(x).logits["shape"].square().sum()
    loss.backward()
    reached = {
        n: p.grad is not None and bool(p.grad.abs().sum() > 0)
        for n, p in split.backbone.named_parameters()
    }
    assert any(".copies.0." in n for n in reached) and any(".copies." not in n for n in reached)
    assert not any(hit for n, hit in reached.items() if ".copies.1." in n)
    assert all(hit for n, hit in reached.items() if ".copies." not in n)


def test_without_a_split_nothing_changes_but_heads():
    network = network_of().eval()
    x, before = pictures(network), None
    before = network(x).logits
    after = rebuilt(HardSharing(), network)(x).logits
    assert all(torch.equal(before[task], after[task]) for task in TASKS)
    mlp = rebuilt(HardSharing(head="mlp"), network)
    assert [m.out_features for m in mlp.heads["colour"] if isinstance(m, nn.Linear)] == [8, 4]


def test_a_split_too_deep():
    with pytest.raises(
        UserError, match=r"split_stage=9: no layers are left to copy; expected 0 to 3"
    ):
        rebuilt(HardSharing(split_stage=9), network_of())


# -- MTAN ------------------------------------------------------------------------------------------
@EACH
def test_open_masks_are_hard_sharing(name):
    """Masks of one: every head reads the shared features; the trunk itself is never changed."""
    plain, network = network_of(name).eval(), network_of(name)
    attended = rebuilt(MTAN(), network).eval()
    x = pictures(network)
    torch.testing.assert_close(attended.backbone.trunk(x.x), plain.backbone(x.x))
    for attention in attended.backbone.attentions:
        for mask in attention.masks.values():
            mask.append(Ones())
    for features in attended.features(x).values():
        torch.testing.assert_close(features, plain.features(x), atol=1e-5, rtol=1e-4)


class Ones(nn.Module):
    def forward(self, x):
        return torch.ones_like(x)


def test_a_task_does_not_see_the_others():
    network = rebuilt(MTAN(), network_of()).eval()
    x = pictures(network)
    before = network(x).logits["shape"]
    for attention in network.backbone.attentions:
        randomised(attention.masks["colour"])
    after = network(x).logits
    torch.testing.assert_close(after["shape"], before)


def test_masks_against_the_formula():
    network = rebuilt(MTAN(), network_of()).eval()
    x = pictures(network)
    backbone, taps = network.backbone, {}
    names = [f"layers.{i}" for i in (2, 5, 8, 11)]
    assert list(backbone.stages) == names
    hooks = []
    for name in names:
        note = lambda module, given, out, name=name: taps.update({name: (given[0], out)})  # noqa: E731
        hooks.append(backbone.trunk.get_submodule(name).register_forward_hook(note))
    backbone.trunk((x.x - network.mean) / network.std)
    for hook in hooks:
        hook.remove()
    attended = None
    for name, attention in zip(names, backbone.attentions, strict=True):
        u, p = taps[name]
        if attended is not None:
            f = torch.nn.functional.adaptive_max_pool2d(attention.onward(attended), p.shape[2:])
            u = torch.cat([u, f], 1)
        attended = attention.masks["colour"](u) * p
    torch.testing.assert_close(
        network.features(x)["colour"], attended.mean((2, 3)), atol=1e-6, rtol=1e-5
    )


ARCHITECTURES = pytest.mark.parametrize(
    "architecture",
    [CrossStitch(), MTAN(), HardSharing(split_stage=2)],
    ids=lambda m: type(m).__name__,
)


# -- with weightings -------------------------------------------------------------------------------
@ARCHITECTURES
def test_weights_of_gradients_reach_all_that_tasks_share(architecture):
    setup = Setup(tasks=TASKS, steps=2)
    result = fit(build({"a": architecture, "mgda": MGDA()}, setup, network_of()), setup)
    weights = [result.history[1][f"train/weight/{task}"] for task in TASKS]
    assert sum(weights) == pytest.approx(1, abs=1e-5) and 0 < weights[0] < 1


@ARCHITECTURES
def test_there_is_no_single_representation(architecture):
    with pytest.raises(
        UserError,
        match=r"methods.mgda cannot be combined with methods.a: .*set its grad_source=shared",
    ):
        build(
            {"a": architecture, "mgda": MGDA(grad_source="rep")}, Setup(tasks=TASKS), network_of()
        )
    assert "grad_source=shared" in ONE_REPRESENTATION


@pytest.mark.parametrize("weighting", [MGDA(), NashMTL(), PCGrad()], ids=lambda m: type(m).__name__)
def test_gradients_do_not_meet_where_no_layer_is_shared(weighting):
    methods = {"sharing": HardSharing(split_stage=0), "weighting": weighting}
    with pytest.raises(
        UserError, match=r"methods.weighting cannot be combined with .*split_stage=0.*raise it"
    ):
        compose(methods, Environment("image", frozenset({"raw", "weak"})))
    methods["sharing"] = HardSharing(split_stage=1)
    assert set(compose(methods, Environment("image", frozenset({"raw", "weak"}))).methods) == {
        "sharing",
        "weighting",
    }


def test_two_ways_to_share_are_one_too_many():
    with pytest.raises(UserError, match=r"both own which layers tasks share"):
        build({"cross_stitch": CrossStitch(), "mtan": MTAN()}, Setup(tasks=TASKS), network_of())
