import copy

import torch
from torch import nn

from recipes.networks.build import build_network
from recipes.step import Embedded
from recipes.step.gates import Gates
from tests.support.harness import train

TASKS = {"shape": 3, "colour": 4}


class Digits:
    kind, shape = "image", (1, 8, 8)


def losses_of(network, x):
    return {task: logits.square().mean() for task, logits in network(Embedded(x)).logits.items()}


def network_and_pictures():
    torch.manual_seed(0)
    network = build_network(Digits(), TASKS, name="digits_cnn", options={"width": 4}).eval()
    return network, torch.rand(5, 1, 8, 8)


def gradients(network, loss):
    names = [name for name, _ in network.named_parameters()]
    return dict(
        zip(
            names,
            torch.autograd.grad(loss, list(network.parameters()), retain_graph=True),
            strict=True,
        )
    )


def test_open_gates_change_nothing_bit_for_bit():
    network, x = network_and_pictures()
    plain = network(Embedded(x)).logits
    before = gradients(network, sum(losses_of(network, x).values()))
    network.gates = Gates(TASKS)
    assert all(
        torch.equal(plain[task], logits) for task, logits in network(Embedded(x)).logits.items()
    )
    after = gradients(network, sum(losses_of(network, x).values()))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_set_after_the_forward_reach_what_is_shared_and_not_the_heads():
    network, x = network_and_pictures()
    single, parameters = {}, list(network.parameters())
    for task, loss in losses_of(network, x).items():
        single[task] = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    network.gates = Gates(TASKS)
    total = sum(losses_of(network, x).values())
    network.gates.set(torch.tensor([0.25, 3.0]))
    found = gradients(network, total)
    for (name, gradient), a, b in zip(
        found.items(), single["shape"], single["colour"], strict=True
    ):
        expected = (a if a is not None else b) if name.startswith("heads.") else 0.25 * a + 3.0 * b
        torch.testing.assert_close(gradient, expected, msg=name)
    network.gates.reset()
    assert network.gates.weights == {"shape": 1.0, "colour": 1.0}


def test_a_gate_keeps_half_precision_and_survives_a_copy():
    gates = Gates(["a"])
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    y = copy.deepcopy(gates)(x, "a")
    z = gates(x, "a")
    gates.set(torch.tensor([0.5]))
    assert torch.autograd.grad(z.sum(), x)[0].tolist() == [0.5, 0.5]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [1, 1]
    assert z.dtype == torch.bfloat16


def test_every_head_reads_its_own_features_where_a_backbone_has_such():
    network, x = network_and_pictures()

    class ByTask(nn.Module):
        def forward(self, x):
            return {"colour": 2 * torch.ones(len(x), 8), "shape": torch.zeros(len(x), 8)}

    network.backbone = ByTask()
    output = network(Embedded(x))
    assert output.features.shape == (5, 8) and (output.features == 1).all()
    assert torch.equal(output.logits["colour"], network.heads["colour"](torch.full((5, 8), 2.0)))
    assert torch.equal(output.logits["shape"], network.heads["shape"](torch.zeros(5, 8)))


def test_a_step_knows_the_whole_representation_of_its_forward():
    step = train(tasks=TASKS, steps=1).recipe.last_step
    (z,) = step.representations
    assert z.shape == (6, 16) and z.requires_grad
