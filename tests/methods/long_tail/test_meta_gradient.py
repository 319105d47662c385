"""The gradient of a loss after one step of SGD: against finite differences, a backward through the
gradient, torch's optimizer, and halves of a batch."""

import pytest
import torch
import torch.nn.functional as F

from methods.long_tail.meta_gradient import SGDStep, sample_slopes
from methods.long_tail.sample_rates import SampleRates, gumbel

SETTINGS = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
]


def classifier(settings, steps):
    """A classifier of 2 classes on 3 features in double precision, after some steps, and its
    optimizer."""
    source = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(3, 2).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=source))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, **settings)
    for _ in range(steps):
        for p in head.parameters():
            p.grad = torch.randn(p.shape, generator=source).double()
        optimizer.step()
    return head, optimizer


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_step_ahead_is_the_optimizers(settings, steps):
    head, optimizer = classifier(settings, steps)
    rules = {name: SGDStep.of(optimizer, p) for name, p in head.named_parameters()}
    gradients = {name: torch.randn(p.shape).double() for name, p in head.named_parameters()}
    ahead = {n: rules[n].moved(p.detach(), gradients[n]) for n, p in head.named_parameters()}
    for name, p in head.named_parameters():
        p.grad = gradients[name].clone()
    optimizer.step()
    for name, p in head.named_parameters():
        torch.testing.assert_close(ahead[name], p.detach(), atol=1e-12, rtol=0)


class Problem:
    """A drawn batch and a balanced one for the classifier above."""

    def __init__(self, settings, steps):
        head, optimizer = classifier(settings, steps)
        source = torch.Generator().manual_seed(1)
        self.theta = {name: p.detach() for name, p in head.named_parameters()}
        self.rules = {name: SGDStep.of(optimizer, p) for name, p in head.named_parameters()}
        self.x, self.balanced_x = torch.randn(2, 6, 3, generator=source, dtype=torch.float64)
        self.y = torch.tensor([0, 0, 0, 0, 1, 0])
        self.balanced_y = torch.tensor([0, 1, 0, 1, 0, 1])
        self.prior = torch.log(torch.tensor([0.9, 0.1], dtype=torch.float64))
        u = torch.rand(6, 2, generator=source, dtype=torch.float64)
        self.rates = SampleRates(torch.tensor([9.0, 1.0]))
        self.noise = gumbel(u)

    def losses(self, weights):
        logits = F.linear(self.x, weights["weight"], weights["bias"]) + self.prior
        return F.cross_entropy(logits, self.y, reduction="none")

    def meta(self, weights):
        logits = F.linear(self.balanced_x, weights["weight"], weights["bias"])
        return F.cross_entropy(logits, self.balanced_y)

    def soft(self, omega):
        everything = torch.ones(2, dtype=torch.bool)
        return self.rates.draw(omega, self.noise, 1.0, everything)[1]

    def looked_ahead(self, w):
        """meta(θ'(w)), with a graph."""
        theta = {name: v.clone().requires_grad_() for name, v in self.theta.items()}
        objective = (w * self.losses(theta)).mean()
        found = torch.autograd.grad(objective, list(theta.values()), create_graph=True)
        moved = {
            name: self.rules[name].moved(v, g)
            for (name, v), g in zip(theta.items(), found, strict=True)
        }
        return self.meta(moved)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_meta_gradient(settings, steps):
    """Against finite differences in ω of the look ahead with straight-through weights, and against
    a backward through the gradient."""
    problem = Problem(settings, steps)
    omega = torch.tensor([0.2, -0.4], dtype=torch.float64)
    held = problem.soft(omega)
    slopes, loss = sample_slopes(problem.losses, problem.meta, problem.theta, problem.rules)
    leaf = omega.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(slopes @ problem.soft(leaf), leaf)

    def value(at):
        return problem.looked_ahead(1 + problem.soft(at) - held.detach())

    assert float(loss) == pytest.approx(float(value(omega)), abs=1e-12)
    for c in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[c] = 1e-5
        numeric = (value(omega + step) - value(omega - step)).detach() / 2e-5
        assert float(gradient[c]) == pytest.approx(float(numeric), abs=1e-8)
    assert gradient.abs().min() > 1e-6
    w = torch.ones(6, dtype=torch.float64, requires_grad=True)
    (through,) = torch.autograd.grad(problem.looked_ahead(w), w)
    torch.testing.assert_close(slopes, through, atol=1e-12, rtol=0)


def half_of(rows, known, ranks=2):
    """Slopes of half a batch, and what it gave to be averaged; `known`: the averages so far."""
    own = Problem({"momentum": 0.9}, 2)
    own.x, own.y = own.x[rows], own.y[rows]
    own.balanced_x, own.balanced_y = own.balanced_x[rows], own.balanced_y[rows]
    given: list[torch.Tensor] = []

    def mean(value):
        given.append(value)
        return known[len(given) - 1] if len(given) <= len(known) else value

    return sample_slopes(own.losses, own.meta, own.theta, own.rules, mean, ranks)[0], given


def test_two_halves_of_a_batch_make_the_whole():
    """As on two ranks, which average the gradient of the step ahead (2 tensors) and then that of
    the balanced loss (2 more)."""
    problem = Problem({"momentum": 0.9}, 2)
    whole, _ = sample_slopes(problem.losses, problem.meta, problem.theta, problem.rules)
    halves = (slice(0, 3), slice(3, 6))
    known: list[torch.Tensor] = []
    for stage in (2, 4):
        given = [half_of(rows, known)[1] for rows in halves]
        known = [(a + b) / 2 for a, b in zip(*given, strict=True)][:stage]
    slopes = torch.cat([half_of(rows, known)[0] for rows in halves])
    torch.testing.assert_close(slopes, whole, atol=1e-12, rtol=0)
