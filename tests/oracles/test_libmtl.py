"""Weightings of tasks, MTAN, what can be said of cross-stitch, and Δm, against LibMTL."""

import copy
import importlib
import importlib.util
import random
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.multi_task.cross_stitch import CrossStitch, Stitch
from methods.multi_task.dwa import average_weights
from methods.multi_task.gradnorm import balance_gradient
from methods.multi_task.mgda import min_norm, rescaled
from methods.multi_task.mtan import MTAN
from methods.multi_task.pcgrad import projected_weights
from methods.multi_task.uncertainty import uncertain
from recipes.delta_m import delta_m
from recipes.networks.build import build_network
from tests.methods.multi_task.test_architectures import TASKS, Pictures, randomised, rebuilt
from tests.support.comparison import same_gradients

LOSSES = torch.tensor([2.0, 0.5, 1.3, 0.9])


@pytest.fixture(scope="module")
def libmtl():
    """Its ResNets import a helper from where torchvision no longer has it; nothing is
    downloaded."""
    if importlib.util.find_spec("LibMTL") is None:
        pytest.skip("the oracle LibMTL is not installed")
    moved = ModuleType("torchvision.models.utils")
    moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {moved.__name__: moved}):
        names = {
            "architecture": "architecture",
            "weighting": "weighting",
            "resnet": "model.resnet",
            "utils": "utils",
        }
        yield SimpleNamespace(
            **{key: importlib.import_module(f"LibMTL.{name}") for key, name in names.items()}
        )


# -- weightings ------------------------------------------------------------------------------------
def jacobian(seed: int, tasks: int = 3, dimensions: int = 6) -> Tensor:
    """Gradients of tasks, a row each."""
    return torch.randn(tasks, dimensions, generator=torch.Generator().manual_seed(seed))


def weighted(
    kind: Any, j: Tensor, epoch: int = 0, history: Any = None, start: Any = None, **settings: Any
) -> Any:
    """One backward of a weighting on losses L_t + g_t·θ at θ = 0: (its weights, gradient of θ, the
    weighting).

    start: values of its own parameters."""

    class Tasks(kind):  # type: ignore[misc]
        task_num, device, rep_grad = len(j), "cpu", False

        def get_share_params(self) -> list[nn.Parameter]:
            return [self.theta]

        def zero_grad_share_params(self) -> None:
            self.theta.grad.zero_()

    made = Tasks()
    made.epoch, made.train_loss_buffer = epoch, history
    made.theta = nn.Parameter(torch.zeros(j.shape[1]))
    made.init_param()
    if start is not None:
        with torch.no_grad():
            made.loss_scale.copy_(start)
    weights = made.backward(LOSSES[: len(j)] + j @ made.theta, **settings)
    return torch.as_tensor(weights, dtype=torch.float32), made.theta.grad, made


@pytest.mark.parametrize("start", [None, (0.3, 0.0, -1.2)], ids=["theirs", "other"])
def test_uncertainty(libmtl, start):
    """Weights, and gradients by the network and by the log variances, which start at -.5 there."""
    j = jacobian(0)
    weights, gradient, made = weighted(
        libmtl.weighting.UW, j, start=None if start is None else torch.tensor(start)
    )
    s = made.loss_scale.detach().clone().requires_grad_()
    assert start is not None or torch.equal(s.detach(), torch.full((3,), -0.5))
    value, ours = uncertain(LOSSES[:3], s, "regression")
    torch.testing.assert_close(ours.detach(), weights)
    torch.testing.assert_close(ours.detach() @ j, gradient)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), s)[0], made.loss_scale.grad)


def test_dwa(libmtl):
    """Weights of the third epoch and of the fourth, from the losses of the two before; ones before
    that."""
    history, j = np.array([[2.0, 1.5, 1.0], [1.0, 0.9, 0.85], [0.4, 0.5, 0.3]]), jacobian(1)
    for epoch in range(4):
        found, gradient, _ = weighted(libmtl.weighting.DWA, j, epoch, history, T=2.0)
        last, before = (torch.tensor(history[:, max(epoch - back, 0)]).float() for back in (1, 2))
        expected = average_weights(last, before, 2.0) if epoch > 1 else torch.ones(3)
        torch.testing.assert_close(expected, found)
        torch.testing.assert_close(expected @ j, gradient)


def shuffles(seed: int, tasks: int) -> Tensor:
    """The orders that the package draws from Python's generator."""
    source, rows = random.Random(seed), []
    for _ in range(tasks):
        rows.append(list(range(tasks)))
        source.shuffle(rows[-1])
    return torch.tensor(rows)


def projected(libmtl: Any, seed: int, tasks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(our weights, theirs, our update, theirs) with equal orders."""
    j = jacobian(seed, tasks)
    state = random.getstate()
    random.seed(seed)
    try:
        theirs, gradient, _ = weighted(libmtl.weighting.PCGrad, j)
    finally:
        random.setstate(state)
    ours = projected_weights(j @ j.T, shuffles(seed, tasks))
    return ours, theirs, ours @ j, gradient


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_pcgrad(libmtl, tasks):
    """Weights and update with the same orders of projection."""
    conflicts = 0
    for seed in range(20):
        ours, theirs, update, gradient = projected(libmtl, seed, tasks)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(update, gradient, atol=1e-5, rtol=1e-5)
        conflicts += bool((ours != 1).any())
    assert conflicts > 5


def test_pcgrad_on_oneself(libmtl):
    """Where the others have turned g_i against itself, theirs projects on g_i too, which the
    paper's j ≠ i excludes."""
    for seed in (65, 104):
        ours, theirs, _, _ = projected(libmtl, seed, 4)
        assert float((ours - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize("normalization", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("seed", range(4))
def test_mgda(libmtl, normalization, seed):
    """Weights; theirs come from a search. The package applies them to the normalised gradients, the
    authors and we to the gradients as they are, so updates are equal where nothing is normalised.
    """
    j = jacobian(seed)
    theirs, gradient, _ = weighted(libmtl.weighting.MGDA, j, mgda_gn=normalization)
    ours = min_norm(rescaled(j @ j.T, LOSSES[:3], normalization))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    if normalization == "none":
        torch.testing.assert_close(ours @ j, gradient, atol=5e-3, rtol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_gradnorm(libmtl, alpha, seed):
    """Its weights are T softmax(v), learnt by v: our gradient by w, led back through that softmax,
    is its own by v."""
    j, first = jacobian(seed), torch.tensor([2.5, 0.7, 1.3])
    v = torch.tensor([0.4, -0.3, 0.1], requires_grad=True)
    history = first[:, None].numpy()
    settings = {"epoch": 1, "history": history, "start": v.detach(), "alpha": alpha}
    theirs, gradient, made = weighted(libmtl.weighting.GradNorm, j, **settings)
    w = 3 * torch.softmax(v, 0)
    torch.testing.assert_close(w.detach(), theirs)
    torch.testing.assert_close(w.detach() @ j, gradient)
    by_w = balance_gradient(
        w.detach(), j.norm(dim=1), LOSSES[:3] / first, alpha, torch.ones(3, dtype=torch.bool)
    )
    assert bool((by_w != 0).all())
    torch.testing.assert_close(
        torch.autograd.grad(w, v, by_w)[0], made.loss_scale.grad, atol=1e-5, rtol=1e-5
    )


def test_delta_m(libmtl):
    """Per task, in percent; theirs is a fraction, with 1 for a metric of which higher is
    better."""
    alone = {
        "segmentation": {"iou": 0.383, "accuracy": 0.6376},
        "depth": {"loss": 0.6754, "relative": 0.278},
    }
    run = {
        "segmentation": {"iou": 0.39, "accuracy": 0.62},
        "depth": {"loss": 0.54, "relative": 0.31},
    }
    lower = frozenset({"loss", "relative"})
    base, new = (
        {task: list(metrics.values()) for task, metrics in figures.items()}
        for figures in (alone, run)
    )
    higher = {task: [int(name not in lower) for name in metrics] for task, metrics in alone.items()}
    assert delta_m(run, alone, lower)[0] == pytest.approx(
        100 * libmtl.utils.count_improvement(base, new, higher)
    )


# -- architectures ---------------------------------------------------------------------------------
def pooled() -> nn.ModuleDict:
    """Heads that give the features themselves."""
    return nn.ModuleDict(
        {task: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) for task in TASKS}
    )


def spread(module: nn.Module) -> None:
    """Running statistics and biases of norms that are not those of the start."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(std=0.1, generator=source)
                layer.running_var.uniform_(0.5, 1.5, generator=source)
                layer.bias.normal_(std=0.1, generator=source)


def tasks_of(made: dict[str, Tensor]) -> Tensor:
    return torch.stack([made[task] for task in TASKS])


def resnet() -> Any:
    """Our network around a ResNet-18 of full width, the only one that theirs knows."""
    torch.manual_seed(0)
    return build_network(Pictures(64), TASKS, name="resnet18", options={"zero_init_last": False})


def attended(libmtl: Any) -> tuple[Any, Any, list[tuple[nn.Module, nn.Module]]]:
    """(our MTAN around a ResNet-18, theirs with its weights, pairs of equal parts).

    Their f, a residual block with a second convolution, is replaced by ours, one convolution: the
    paper has either, by the kind of network."""
    network, encoder = resnet(), libmtl.resnet.resnet18()
    spread(randomised(network.backbone))
    encoder.load_state_dict(network.backbone.state_dict())
    ours = rebuilt(MTAN(reduction=1), network).backbone
    spread(randomised(ours.attentions))
    theirs = libmtl.architecture.MTAN(list(TASKS), lambda: encoder, pooled(), False, False, "cpu")
    inner = theirs.encoder
    parts = [(ours.trunk.conv1, inner.shared_conv[0]), (ours.trunk.bn1, inner.shared_conv[1])]
    for i, attention in enumerate(ours.attentions):
        stage = getattr(ours.trunk, f"layer{i + 1}")
        parts += [
            (stage[:-1], inner.shared_layer[str(i)][0]),
            (stage[-1], inner.shared_layer[str(i)][1]),
        ]
        for task, mask in zip(TASKS, inner.encoder_att[str(i)], strict=True):
            for position in (0, 3):  # before a norm a bias has no effect; ours has none
                nn.init.zeros_(mask[position].bias)
            mask.load_state_dict(attention.masks[task].state_dict(), strict=False)
            parts.append((attention.masks[task], mask))
        if i:
            inner.encoder_block_att[i - 1] = copy.deepcopy(attention.onward)
            parts.append((attention.onward, inner.encoder_block_att[i - 1]))
    return ours, theirs, parts


def matched(parts: list[tuple[nn.Module, nn.Module]]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters by name of equal parts."""
    mine, yours = [], []
    for a, b in parts:
        theirs = dict(b.named_parameters())
        for name, parameter in a.named_parameters():
            mine.append(parameter)
            yours.append(theirs[name])
            assert torch.equal(parameter, theirs[name])
    return mine, yours


def test_mtan(libmtl):
    """Features of both tasks, and gradients by the trunk, all masks and f; in evaluation and with
    batch statistics."""
    ours, theirs, parts = attended(libmtl)
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mine, yours = matched(parts)
    for mode in (False, True):
        ours.train(mode)
        theirs.train(mode)
        same_gradients(tasks_of(ours(x)), mine, tasks_of(theirs(x)), yours, tolerance=2e-5)


def test_cross_stitch(libmtl):
    """1.1.5 has one vector α_j a junction for all columns, which so get the same input:
    ours with equal rows. It does not mix after the last stage, and its fourth vector is never read.
    """
    network = rebuilt(CrossStitch(per_channel=False), resnet())
    ours = network.backbone
    spread(randomised(ours))
    encoders = [libmtl.resnet.resnet18() for _ in TASKS]
    theirs = libmtl.architecture.Cross_stitch(
        list(TASKS), lambda: encoders.pop(), pooled(), False, False, "cpu"
    )
    inner, parts = theirs.encoder, []
    for t, task in enumerate(TASKS):
        conv, norm, *_ = inner.resnet_conv[task]
        parts += [(ours.trunk.conv1.copies[t], conv), (ours.trunk.bn1.copies[t], norm)]
        parts += [
            (getattr(ours.trunk, f"layer{i + 1}").copies[t], inner.resnet_layer[str(i)][t])
            for i in range(4)
        ]
    for a, b in parts:
        b.load_state_dict(a.state_dict())
    units = {name: module for name, module in ours.named_modules() if isinstance(module, Stitch)}
    junctions = [
        next(unit for name, unit in units.items() if f"layer{i}." in name) for i in (1, 2, 3)
    ]
    with torch.no_grad():
        inner.cross_unit.copy_(torch.tensor([[0.8, 0.3], [-0.2, 0.9], [0.6, 0.5], [7.0, 7.0]]))
        for unit in units.values():
            unit.alpha.copy_(torch.eye(2)[:, :, None])
        for unit, row in zip(junctions, inner.cross_unit, strict=False):
            unit.alpha.copy_(row.expand(2, 2)[:, :, None])
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mine, yours = matched(parts)
    ours.eval()
    theirs.eval()
    found, expected = tasks_of(ours(x)), tasks_of(theirs(x))
    same_gradients(found, mine, expected, yours, tolerance=2e-5)
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    rows = torch.autograd.grad(
        (tasks_of(ours(x)) * weight).sum(), [unit.alpha for unit in junctions]
    )
    (expected,) = torch.autograd.grad((tasks_of(theirs(x)) * weight).sum(), inner.cross_unit)
    torch.testing.assert_close(
        torch.stack(rows).sum(1).squeeze(2), expected[:3], atol=1e-3, rtol=1e-4
    )
    assert bool((expected[:3] != 0).all()) and not expected[3].any()
