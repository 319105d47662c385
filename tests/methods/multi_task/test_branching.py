"""One backward through all heads gives what one a task gives, and is left alone where it would
not."""

from types import SimpleNamespace

import pytest
import torch

from methods.adversarial.freelb import FreeLB
from methods.multi_task import gram
from methods.multi_task.branching import (
    asks_for_itself,
    backward_to_split,
    find_trunk_split,
    with_gradients,
)
from methods.multi_task.gram import GramProvider
from methods.multi_task.mgda import MGDA
from methods.multi_task.nash_mtl import NashMTL
from methods.multi_task.pcgrad import PCGrad
from methods.semi_supervised.fixmatch import FixMatch
from recipes.step import Embedded
from recipes.step.gates import Gates
from tests.support.harness import Setup, train
from tests.support.worked_multi_task import TASKS

SETTINGS = [
    ("rep", {}),
    ("shared", {}),
    ("rep", {"missing": True}),
    ("shared", {"kind": "text", "norm": True}),
]


@pytest.mark.parametrize(("source", "settings"), SETTINGS, ids=str)
@pytest.mark.parametrize("method", [MGDA, NashMTL])
def test_a_run_is_the_same_as_task_by_task(source, settings, method, monkeypatch):
    taken = []
    monkeypatch.setattr(
        gram, "find_trunk_split", lambda *a: taken.append(find_trunk_split(*a)) or taken[-1]
    )
    together = train({"method": method(grad_source=source)}, tasks=TASKS, steps=3, **settings)
    assert len(taken) == 3 and all(found is not None for found in taken)
    monkeypatch.setattr(gram, "find_trunk_split", lambda *a: None)
    alone = train({"method": method(grad_source=source)}, tasks=TASKS, steps=3, **settings)
    for name, value in alone.parameters.items():
        torch.testing.assert_close(together.parameters[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)


@pytest.mark.parametrize("source", ["rep", "shared"])
def test_further_losses_of_a_task_pass_its_gates_too(source, monkeypatch):
    def run():
        methods = {"fixmatch": FixMatch(threshold=0.0), "mgda": MGDA(grad_source=source)}
        return train(methods, tasks=TASKS, steps=2).parameters

    together = run()
    monkeypatch.setattr(gram, "find_trunk_split", lambda *a: None)
    for name, value in run().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("source", ["rep", "shared"])
def test_accumulation_adds_the_parts(source, monkeypatch):
    def run():
        return train(
            {"mgda": MGDA(grad_source=source)}, tasks=TASKS, steps=2, accumulate=3
        ).parameters

    together = run()
    monkeypatch.setattr(gram, "find_trunk_split", lambda *a: None)
    for name, value in run().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6, msg=name)


def small():
    network = Setup(tasks=TASKS).network()
    network.gates = Gates(TASKS)
    output = network(Embedded(torch.rand(4, 3, 8, 8)))
    return network, output, [output.logits[task].logsumexp(1).mean() for task in TASKS]


def parts(network, output, losses):
    return find_trunk_split(losses, [output.features], list(TASKS), network)


def test_gradients_at_the_gates_and_of_the_heads():
    network, output, losses = small()
    found = backward_to_split(parts(network, output, losses), losses, [output.features], keep=True)
    for loss, (row,) in zip(losses, found.by_task, strict=True):
        torch.testing.assert_close(
            row, torch.autograd.grad(loss, output.features, retain_graph=True)[0]
        )
    assert {id(p) for p, _ in found.heads} == {id(p) for p in network.heads.parameters()}
    for p, gradient in found.heads:
        torch.testing.assert_close(
            gradient, torch.autograd.grad(sum(losses), p, retain_graph=True)[0]
        )


def crossing(network, output, losses):
    return [losses[0] + losses[1], *losses[1:]]


def around(network, output, losses):
    return [losses[0] + output.features.square().mean(), *losses[1:]]


def alone(network, output, losses):
    return [losses[0], *(torch.zeros(()) for _ in losses[1:])]


def tied(network, output, losses):
    return [losses[0] + network.body[0].weight.square().sum(), *losses[1:]]


@pytest.mark.parametrize("change", [crossing, around, alone, tied])
def test_other_ways_to_what_is_shared_are_seen(change):
    network, output, losses = small()
    assert parts(network, output, losses) is not None
    assert parts(network, output, change(network, output, losses)) is None


def test_a_parameter_of_the_trunk_that_a_head_uses_too_is_seen():
    """Its gradient comes from both, and from every task: no part of it may get lost."""
    network = Setup(tasks=TASKS).network()
    network.gates, shared = Gates(TASKS), next(p for p in network.body.parameters() if p.ndim == 1)

    class Tied(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.shift = head, shared

        def forward(self, x):
            return self.head(x) * self.shift.sum()

    network.heads[next(iter(TASKS))] = Tied(network.heads[next(iter(TASKS))])
    output = network(Embedded(torch.rand(4, 3, 8, 8)))
    assert (
        parts(network, output, [output.logits[task].logsumexp(1).mean() for task in TASKS]) is None
    )


def test_dropout_between_features_and_gates_is_seen():
    network, output, _ = small()
    hidden = torch.nn.functional.dropout(output.features, 0.5)
    losses = [network.heads[task](network.gates(hidden, task)).sum() for task in TASKS]
    assert parts(network, output, losses) is None


def test_without_gates_there_is_nothing_to_stop_at():
    network, output, losses = small()
    network.gates = None
    assert parts(network, output, losses) is None


def test_given_gradients_are_scaled_as_the_loss_is():
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    z = 2 * y
    loss = with_gradients(torch.tensor(7.0), [(x, torch.tensor([1.0, 2.0])), (z, torch.ones(3))])
    (loss / 4).backward()
    assert float(loss.detach()) == 7
    assert x.grad.tolist() == [0.25, 0.5] and y.grad.tolist() == [0.5] * 3


def test_given_gradients_that_need_no_factor_are_taken_as_they_are():
    x = torch.ones(3, requires_grad=True)
    gradients = [(x, torch.full((3,), 2.0))]
    place = gradients[0][1].data_ptr()
    loss = with_gradients(torch.tensor(1.0), gradients)
    gradients.clear()
    loss.backward(retain_graph=True)
    assert x.grad.tolist() == [2.0] * 3 and x.grad.data_ptr() != place
    loss.backward(retain_graph=True)
    assert x.grad.tolist() == [4.0] * 3
    x.grad = None
    loss.backward()
    assert x.grad.tolist() == [2.0] * 3 and x.grad.data_ptr() == place


def test_one_gradient_given_to_two_parameters_stays_that_of_both():
    x, y, both = (
        torch.ones(2, requires_grad=True),
        torch.ones(2, requires_grad=True),
        torch.tensor([3.0, 4.0]),
    )
    with_gradients(torch.tensor(1.0), [(x, both), (y, both)]).backward()
    x.grad.zero_()
    assert y.grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("source", ["rep", "shared"])
def test_gradients_of_a_loss_that_is_not_scaled_are_no_update_in_fp16(source):
    network, output, losses = small()
    recipe = SimpleNamespace(
        tasks=dict.fromkeys(TASKS), network=network, parameters=network.parameters
    )
    for dtype, done in ((torch.float16, False), (torch.bfloat16, True)):
        provider = GramProvider(source)
        with torch.autocast("cpu", dtype=dtype):
            provider(losses, [output.features], recipe)
        assert (provider.update is not None) == done


def test_a_perturbation_that_learns_keeps_the_way_to_the_inputs_open(monkeypatch):
    weight, delta = torch.nn.Parameter(torch.ones(2)), torch.zeros(2, requires_grad=True)
    assert asks_for_itself(weight + delta, [weight]) and asks_for_itself(delta, [weight])
    assert not asks_for_itself(2 * weight, [weight]) and not asks_for_itself(
        torch.ones(2), [weight]
    )

    def run():
        methods = {"freelb": FreeLB(step_size=1.0), "pcgrad": PCGrad()}
        return train(methods, tasks=TASKS, steps=2).parameters

    together = run()
    monkeypatch.setattr(gram, "find_trunk_split", lambda *a: None)
    for name, value in run().items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6, msg=name)
