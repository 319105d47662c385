"""Diff Pruning: the gates' closed forms and frequencies, the penalty, the projection, the file."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from methods.peft.diff_pruning import (
    Diff,
    DiffPruning,
    Noise,
    diffs_of,
    expected_open,
    hard_concrete,
    largest,
    open_probability,
)
from methods.peft.lora import LoRA
from recipes.optimization.build import parameter_groups
from recipes.optimization.optimizers import AdamW
from recipes.optimization.schedulers import Cosine, build_scheduler
from recipes.services.teacher import copy_sharing_frozen
from recipes.step.step import Progress
from tests.support.small_networks import features, network, operate

EVERY = ["vit", "beit", "swinv2", "resnet", "bert", "albert", "modernbert"]


# -- mathematics -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("alpha", "probability"), [(0.0, 0.5), (-2.0, 0.119203), (5.0, 0.993307)])
def test_worked_probability_and_its_frequency(alpha, probability):
    found = float(open_probability(torch.tensor(alpha)))
    assert found == pytest.approx(probability, abs=1e-6)
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    gates = hard_concrete(torch.tensor(alpha), u.clamp(1e-6, 1 - 1e-6))
    assert float((gates > 0).float().mean()) == pytest.approx(probability, abs=4e-3)


def test_worked_gates_and_their_gradient():
    """∂z/∂α = (r - l) s (1 - s) inside, 0 where the gate is cut."""
    alpha = torch.zeros(3, requires_grad=True)
    gates = hard_concrete(alpha, torch.tensor([0.3, 0.6, 0.9]))
    torch.testing.assert_close(gates, torch.tensor([0.0, 0.3, 1.0]), atol=1e-6, rtol=0)
    gates.sum().backward()
    torch.testing.assert_close(alpha.grad, torch.tensor([0.0, 3 * 0.6 * 0.4, 0.0]))
    assert float(hard_concrete(torch.tensor(math.log(1.5)))) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(("product", "count"), [(True, 1.178839), (False, 2.343569)])
def test_worked_penalty(product, count):
    alpha, group = torch.tensor([0.0, -2.0, 5.0]), torch.tensor(1.0)
    assert float(expected_open([alpha], [group], product)) == pytest.approx(count, abs=1e-5)
    ungated = float(expected_open([alpha], [None], product))
    assert ungated == pytest.approx(0.5 + 0.119203 + 0.993307, abs=1e-5)


def test_the_largest_entries_over_all_tensors_are_kept():
    masks = largest([torch.tensor([[1.0, -5.0]]), torch.tensor([2.0, 0.0, -3.0, 0.5])], 0.5)
    assert masks[0].tolist() == [[False, True]]
    assert masks[1].tolist() == [True, False, True, False]
    assert sum(int(mask.sum()) for mask in largest([torch.zeros(4)], 0.5)) == 0
    assert sum(int(mask.sum()) for mask in largest([torch.ones(4)], 0.001)) == 1


def test_a_fixed_gate_is_0_or_1_for_every_draw_and_passes_no_gradient_to_itself():
    noise = Noise()
    diff = Diff("w", 0, torch.zeros(500), 5.0, grouped=True, noise=noise)
    with torch.no_grad():
        diff.w.copy_(torch.arange(500.0))
    mask = torch.arange(500) % 2 == 0
    diff.fix(mask)
    for step in range(20):
        noise.key = (0, step)
        assert torch.equal(diff(), torch.arange(500.0) * mask)
    (diff() * torch.randn(500)).sum().backward()
    assert not diff.alpha.grad.any()
    assert torch.equal(diff.w.grad != 0, mask)


def test_gates_are_drawn_once_a_step_and_not_in_evaluation():
    noise = Noise()
    diff = Diff("w", 3, torch.zeros(1000), 0.0, grouped=False, noise=noise)
    nn.init.ones_(diff.w)
    noise.key = (0, 1)
    first = diff()
    assert torch.equal(diff(), first)
    noise.key = (0, 2)
    assert not torch.equal(diff(), first)
    assert torch.equal(diff.eval()(), torch.zeros(1000)), "σ(0) is stretched to 0"


# -- in networks -----------------------------------------------------------------------------------
def randomised(name, **settings):
    """A network whose diffs are random, half of the gates between 0 and 1."""
    made = operate(DiffPruning(**settings), network(name), "diff_pruning")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for diff in diffs_of(made, "diff_pruning"):
            diff.w.copy_(0.1 * torch.randn(diff.w.shape, generator=generator))
            diff.alpha.copy_(torch.randn(diff.w.shape, generator=generator))
    return made


@pytest.mark.parametrize("name", EVERY)
def test_every_network_starts_as_it_was_changes_and_merges(name):
    before = features(network(name))
    fresh = operate(DiffPruning(), network(name), "diff_pruning")
    torch.testing.assert_close(features(fresh), before, atol=1e-6, rtol=0)
    made = randomised(name)
    changed = features(made)
    assert float((changed - before).abs().max()) > 1e-3
    torch.testing.assert_close(features(copy_sharing_frozen(made)), changed, atol=0, rtol=0)
    method = DiffPruning()
    method.key = "diff_pruning"
    method.merge(made)
    torch.testing.assert_close(features(made), changed, atol=1e-5, rtol=1e-5)
    plain = network(name)
    assert made.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in made.modules()] == [type(m) for m in plain.modules()]


def context_of(made, teacher=None):
    return SimpleNamespace(network=made, teacher=teacher, total_steps=10, seed=0)


def test_pruning_keeps_the_share_at_the_step_that_fixes_it_and_in_the_average_too(tmp_path):
    made = randomised("vit")
    method = DiffPruning(share=0.01, fixed=0.4)
    method.key = "diff_pruning"
    twin = copy_sharing_frozen(made)
    context = context_of(made, SimpleNamespace(network=twin))
    size = sum(diff.w.numel() for diff in diffs_of(made, "diff_pruning"))

    def left(net):
        return [diff.eval()() for diff in diffs_of(net, "diff_pruning")]

    before = left(made)
    for done in range(1, 7):
        assert sum(int((value != 0).sum()) for value in left(made)) > size // 10
        method.after_step(SimpleNamespace(progress=Progress(done - 1, 10)), context)
    kept = left(made)
    assert sum(int((value != 0).sum()) for value in kept) == int(0.01 * size)
    smallest = min(v.detach()[v != 0].abs().min() for v in kept if v.any())
    dropped = max(a.detach()[b == 0].abs().max() for a, b in zip(before, kept, strict=True))
    assert smallest >= dropped
    assert all(torch.equal(a != 0, b != 0) for a, b in zip(kept, left(twin), strict=True))
    context.reported = lambda: made
    method.save_artifacts(tmp_path, context)
    assert (tmp_path / "delta.safetensors").stat().st_size < 4 * size / 4
    again = operate(DiffPruning(load=str(tmp_path)), network("vit"), "diff_pruning")
    torch.testing.assert_close(features(again), features(made), atol=0, rtol=0)
    with pytest.raises(UserError, match="was trained on other weights of a VisionTransformer"):
        operate(DiffPruning(load=str(tmp_path)), network("vit", seed=1), "diff_pruning")
    with pytest.raises(UserError, match="its format is 'roux sparse delta 1'"):
        operate(LoRA(load=str(tmp_path)), network("vit"), "lora")


def test_gates_have_a_constant_rate_beside_the_schedule_of_the_rest():
    made = operate(DiffPruning(gate_lr=0.2), network("digits_cnn"), "diff_pruning")
    method = DiffPruning(gate_lr=0.2)
    method.key = "diff_pruning"
    extra = method.parameter_groups(context_of(made))
    groups = parameter_groups(made, AdamW(lr=1e-3, weight_decay=0.1), extra)
    optimizer = torch.optim.AdamW(groups)
    scheduler = build_scheduler(optimizer, Cosine(), 4)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step(), scheduler.step()
    gates = [number for number, group in enumerate(groups) if group.get("constant")]
    assert len(gates) == 1
    assert [row[gates[0]] for row in rates] == [0.2] * 4
    assert groups[gates[0]]["weight_decay"] == 0
    others = [row[0] for row in rates]
    assert others == pytest.approx([1e-3 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)])
