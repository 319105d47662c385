import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.randomness import generator
from methods.multi_task.cross_stitch import CrossStitch
from methods.multi_task.dwa import DWA
from methods.multi_task.mgda import MGDA
from methods.multi_task.mtan import MTAN
from methods.multi_task.sluice import (
    Sluice,
    SubspaceMix,
    mixed_subspaces,
    overlap,
    start_alpha,
    start_beta,
)
from methods.multi_task.stages import Columns
from recipes.optimization.build import parameter_groups
from recipes.optimization.optimizers import SGD
from tests.methods.multi_task.test_architectures import (
    TASKS,
    network_of,
    pictures,
    randomised,
    rebuilt,
)
from tests.support.harness import Setup, build, fit

SOURCE = generator("sluice")
FAMILIES = pytest.mark.parametrize(
    "name", ["digits_cnn", "resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)


def units(network):
    return [module for module in network.modules() if isinstance(module, SubspaceMix)]


def test_the_worked_mixture():
    parts = [torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[10.0, 20, 30, 40]])]
    balanced = mixed_subspaces(parts, start_alpha(4, "balanced", 0.9), 1)
    for found in balanced:
        torch.testing.assert_close(found, torch.tensor([[11, 16.5, 11, 16.5]]))
    alpha = torch.tensor([[0.9, 0.1, 0, 0], [0, 0.5, 0, 0.5], [0.1, 0, 0.9, 0], [0, 0.5, 0, 0.5]])
    a, b = mixed_subspaces(parts, alpha, 1)
    # the specification's rows as printed: (a1, a2, b1, b2) by alpha
    stacked = torch.stack([p.view(2, 2) for p in parts]).view(4, 2)
    expected = (alpha @ stacked).view(2, 4)
    torch.testing.assert_close(torch.cat([a, b]), expected)
    torch.testing.assert_close(a, torch.tensor([[1.2, 2.2, 16.5, 22.0]]))
    torch.testing.assert_close(b, torch.tensor([[9.1, 18.2, 16.5, 22.0]]))


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_mixing_is_the_sum_over_tasks_and_subspaces(axis):
    parts = [torch.randn(2, 6, 6, 6, generator=SOURCE) for _ in range(3)]
    alpha = torch.randn(9, 9, generator=SOURCE)
    found = mixed_subspaces(parts, alpha, axis)
    for t in range(3):
        for s in range(3):
            expected = sum(
                alpha[3 * t + s, 3 * k + r] * parts[k].narrow(axis, 2 * r, 2)
                for k in range(3)
                for r in range(3)
            )
            torch.testing.assert_close(
                found[t].narrow(axis, 2 * s, 2), expected, atol=1e-5, rtol=1e-5
            )


def test_the_worked_penalty():
    w = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    assert float(overlap(w, 2, "none")) == pytest.approx(0.4956, abs=1e-6)
    assert float(overlap(w, 2, "mean")) == pytest.approx(0.4956 / 4, abs=1e-6)
    assert float(overlap(w, 1, "none")) == 0


def test_the_penalty_is_that_of_the_formula():
    w = torch.randn(6, 5, 3, 3, generator=SOURCE)
    rows = w.flatten(1).split(2)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float((rows[i].T @ rows[j]).square().sum()) for i, j in pairs)
    assert float(overlap(w, 3, "none")) == pytest.approx(expected, rel=1e-5)
    assert float(overlap(torch.tensor([[1.0, 1], [1, 1], [1, -1], [-1, 1]]), 2, "none")) == 0


def test_starts():
    alpha = start_alpha(4, "identity_like", 0.7)
    torch.testing.assert_close(alpha.sum(1), torch.ones(4))
    assert alpha[0].tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert start_beta(2, 5, "imbalanced")[1].tolist() == pytest.approx([0.025] * 4 + [0.9])
    assert start_beta(2, 4, "uniform").tolist() == [[0.25] * 4] * 2
    assert start_beta(3, 1, "imbalanced").tolist() == [[1.0]] * 3


def with_identity(network, last_stage_alone=True):
    for unit in units(network):
        unit.alpha.data.copy_(torch.eye(len(unit.alpha)))
    if last_stage_alone:
        network.backbone.beta.data.zero_()
        network.backbone.beta.data[:, -1] = 1
    return network


@FAMILIES
def test_identities_are_the_backbone_itself(name):
    plain = network_of(name).eval()
    x = pictures(plain)
    network = with_identity(rebuilt(Sluice(), network_of(name))).eval()
    for features in network.features(x).values():
        torch.testing.assert_close(features, plain.features(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["digits_cnn", "swin_tiny_patch4_window7_224"])
def test_one_subspace_and_the_last_stage_are_cross_stitch(name):
    stitched = rebuilt(CrossStitch(own=0.8, per_channel=False), network_of(name)).train()
    sluiced = rebuilt(Sluice(1, own=0.8, penalty=0.0), network_of(name)).train()
    sluiced.backbone.beta.data.zero_()
    sluiced.backbone.beta.data[:, -1] = 1
    for network in (stitched, sluiced):
        for layer in network.modules():
            if isinstance(layer, Columns):
                randomised(layer.copies[1])
    x = pictures(stitched)
    gradients = []
    for network in (stitched, sluiced):
        logits = network(x).logits
        sum(values.square().sum() for values in logits.values()).backward()
        named = {
            n.removeprefix("trunk."): p.grad
            for n, p in network.backbone.named_parameters()
            if ".mix." not in n and "beta" not in n and "projections" not in n
        }
        alphas = [p.grad.view(2, 2) for n, p in network.named_parameters() if "alpha" in n]
        gradients.append((logits, named, alphas))
    (a, named, alphas), (b, others, more) = gradients
    for task in TASKS:
        torch.testing.assert_close(a[task], b[task], atol=1e-5, rtol=1e-5)
    assert named.keys() == others.keys()
    for key, gradient in named.items():
        torch.testing.assert_close(gradient, others[key], atol=1e-3, rtol=1e-3)
    for one, other in zip(alphas, more, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_heads_read_all_stages(name):
    """At identities the features are Σ β_m of the pooled stages of the backbone."""
    plain = network_of(name).eval()
    x = pictures(plain)
    network = with_identity(rebuilt(Sluice(), network_of(name)), last_stage_alone=False).eval()
    beta = torch.rand(2, len(network.backbone.stages), generator=SOURCE)
    network.backbone.beta.data.copy_(beta)
    seen = {}
    hooks = []
    for stage in network.backbone.stages:
        note = lambda module, given, out, stage=stage: seen.update({stage: out})  # noqa: E731
        hooks.append(plain.backbone.get_submodule(stage).register_forward_hook(note))
    final = plain.features(x)
    for t, task in enumerate(TASKS):
        expected = beta[t, -1] * final
        pairs = zip(network.backbone.stages[:-1], network.backbone.projections, strict=True)
        for m, (stage, project) in enumerate(pairs):
            out = seen[stage]
            vector = out.mean(1) if out.ndim == 3 else out.mean((2, 3))
            expected = expected + beta[t, m] * project(vector)
        torch.testing.assert_close(network.features(x)[task], expected, atol=1e-4, rtol=1e-4)
    kinds = {type(project) for project in network.backbone.projections}
    assert kinds == ({nn.Identity} if name.startswith("vit") else {nn.Linear})


@FAMILIES
def test_numbers_of_parameters_and_penalized_layers(name):
    backbone = rebuilt(Sluice(), network_of(name)).backbone
    stages = len(backbone.stages)
    alphas = [unit.alpha for unit in units(backbone)]
    assert sum(a.numel() for a in alphas) == stages * 4**2
    assert backbone.beta.numel() == 2 * stages
    # one weight a stage and column, with as many rows as the stage has channels
    assert len(backbone.penalized) == 2 * stages
    rows = [len(backbone.trunk.get_parameter(weight)) for weight in backbone.penalized[::2]]
    widths = [p.in_features for p in backbone.projections if isinstance(p, nn.Linear)]
    assert set(widths) <= set(rows) and all(r % 2 == 0 for r in rows)


def test_alpha_and_beta_have_their_own_rate_and_no_decay():
    recipe = build({"s": Sluice(lr_scale=10.0)}, Setup(tasks=TASKS), network_of())
    groups = parameter_groups(recipe, SGD(lr=0.1, weight_decay=0.5))
    (own,) = [g for g in groups if g["lr"] == pytest.approx(1.0)]
    assert own["weight_decay"] == 0 and len(own["params"]) == 1 + len(units(recipe.network))


@pytest.mark.parametrize("weighting", [MGDA(), DWA()], ids=lambda m: type(m).__name__)
def test_in_a_run(weighting):
    """All learns, and the penalty is a term beside the tasks' losses."""
    setup = Setup(tasks=TASKS, steps=2)
    recipe = build({"sluice": Sluice(penalty=0.5), "w": weighting}, setup, network_of())
    before = {n: p.detach().clone() for n, p in recipe.network.named_parameters()}
    expected = sum(
        float(overlap(recipe.network.backbone.trunk.get_parameter(name).detach(), 2, "none"))
        for name in recipe.network.backbone.penalized
    )
    row = fit(recipe, setup).history[0]
    assert row["train/sluice"] == pytest.approx(expected, rel=1e-5)
    terms = [row[f"train/weight/{t}"] * row[f"train/supervised/{t}"] for t in TASKS]
    if isinstance(weighting, DWA):
        assert row["train/loss"] == pytest.approx(sum(terms) + 0.5 * expected, rel=1e-5)
    still = [n for n, p in recipe.network.named_parameters() if torch.equal(before[n], p)]
    assert still == []
    assert (before["backbone.beta"] != recipe.network.backbone.beta).all()


def test_frozen_weights_have_no_penalty():
    network = network_of()
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    setup = Setup(tasks=TASKS, steps=1)
    row = fit(build({"sluice": Sluice(penalty=0.5)}, setup, network), setup).history[0]
    assert "train/sluice" not in row


def test_what_it_refuses():
    with pytest.raises(
        UserError, match=r"subspaces=3: does not divide the 4 channels of 'layers.2'"
    ):
        rebuilt(Sluice(3), network_of())
    with pytest.raises(UserError, match="both own which layers tasks share"):
        build({"s": Sluice(), "m": MTAN()}, Setup(tasks=TASKS), network_of())
