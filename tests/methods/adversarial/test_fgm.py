import pytest
import torch
import torch.nn.functional as F

from methods.adversarial.attacks.threat import Threat
from methods.adversarial.fgm import FGM
from recipes.step import Embedded, Input
from tests.support.attack_loops import assert_same, clipped, descend, logits, weak_batches
from tests.support.harness import Setup, step_with, train


def test_the_step_of_the_specification():
    """g = [[3, 0], [0, 4]], eps 1: r = [[.6, 0], [0, .8]], the norm over all words of a sample."""
    g = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    assert Threat("l2", 1.0, None).direction(g).tolist() == [
        [[pytest.approx(0.6), 0], [0, pytest.approx(0.8)]]
    ]


def test_true_steps_equal_a_plain_loop():
    setup = Setup(kind="text", steps=3)
    result = train({"fgm": FGM(eps=2.0, weight=0.5)}, kind="text", steps=3)
    network, terms = setup.network(), []
    for _, view, targets, _ in weak_batches(setup):
        y, embedded = targets["label"], network.embed(view)
        e = embedded.x.detach().requires_grad_(True)
        z = logits(network, Embedded(e, embedded.mask))
        (g,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), e)
        g = g * embedded.mask.unsqueeze(-1)
        r = 2.0 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1)
        clean = F.cross_entropy(logits(network, embedded), y)
        moved = F.cross_entropy(logits(network, Embedded(embedded.x + r, embedded.mask)), y)
        terms.append((clean.item(), moved.item()))
        descend(
            network,
            list(torch.autograd.grad(clean + 0.5 * moved, list(network.parameters()))),
            setup.lr,
        )
    found = [(row["train/supervised"], row["train/fgm"]) for row in result.history]
    assert [v for pair in found for v in pair] == pytest.approx(
        [v for pair in terms for v in pair], abs=1e-5
    )
    assert_same(result, network)


def test_it_is_harder_than_the_clean_sample_and_pixels_work_as_well():
    for kind, eps in (("text", 1.0), ("image", 0.5)):
        result = train({"fgm": FGM(eps=eps)}, kind=kind)
        assert all(row["train/fgm"] > row["train/supervised"] for row in result.history)


def test_missing_labels_count_for_nobody():
    result = train({"fgm": FGM(eps=0.0)}, missing=True, view=clipped)
    assert all(
        row["train/fgm"] == pytest.approx(row["train/supervised"], rel=1e-5)
        for row in result.history
    )


def test_its_term_is_the_criterion_of_the_supervised_one_on_perturbed_inputs():
    """Adjusted logits, and a target of mass one half counts one half."""
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    shift = torch.tensor([0.0, 3.0])
    mass = torch.tensor([1.0, 0.5, 0.0])
    targets = torch.stack([mass, torch.zeros(3)], 1)
    at = step_with({"fgm": logits}, adjust=lambda step, z, *rest: z + shift)
    at.add(Input("fgm", Embedded(torch.zeros(3, 1)), {"label": targets}))
    method = FGM()
    method.key = "fgm"
    method.terms(at, context=None)
    losses = -torch.log_softmax(logits + shift, 1)[:, 0]
    expected = (mass * losses).sum() / 1.5
    torch.testing.assert_close(at.terms["fgm"].reduced(), expected)


def test_weight_zero_is_plain_training():
    plain, result = train(kind="text"), train({"fgm": FGM(weight=0.0)}, kind="text")
    for name, value in plain.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-7, rtol=0)
