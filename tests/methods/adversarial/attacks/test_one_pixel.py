"""One pixel: bounds, the optimum of brute force, and a generation against a plain loop."""

from itertools import product

import torch

from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Victim
from methods.adversarial.attacks.one_pixel import (
    Evolution,
    OnePixel,
    fitness_of,
    one_pixel,
    others,
    painted,
    parents,
)
from methods.adversarial.attacks.threat import Threat
from tests.support.worked_attacks import convolutional, pictures

MODEL = convolutional()
X, _ = pictures()
Y = MODEL(X).argmax(1).detach()
DRAW = SampleRandomness(0, torch.arange(len(X))).draw
BOX = Threat("linf", 1.0)


def victim(model=MODEL, x=X, y=Y):
    return Victim(lambda pixels: {"label": model(pixels)}, x, {"label": y})


def test_at_most_k_pixels_change_and_stay_in_the_box():
    for k in (1, 3):
        there = OnePixel(k, 16, 5)(victim(), BOX, DRAW)
        changed = (there != X).any(1).flatten(1).sum(1)
        assert int(changed.max()) <= k and int(changed.min()) >= 1
        assert float(there.min()) >= 0 and float(there.max()) <= 1


def test_a_sample_that_is_wrong_already_is_left_after_the_first_population():
    calls = []

    def model(pixels):
        calls.append(len(pixels))
        return torch.stack([torch.zeros(len(pixels)), torch.ones(len(pixels))], 1)

    one_pixel(victim(model, X, torch.zeros(len(X)).long()), 1, 8, 50, 0.5, DRAW)
    assert sum(calls) == len(X) * (8 + 1)


class Dominated:
    """Two classes on 3x4 pixels of three channels; the second wins at one place and color only by
    a small bias that no pixel reaches."""

    def __init__(self):
        source = torch.Generator().manual_seed(1)
        self.weight = 0.05 * torch.randn(3, 3, 4, generator=source)
        self.weight[:, 1, 2] = torch.tensor([2.0, -3.0, 2.5])

    def __call__(self, pixels):
        z = (pixels * self.weight).flatten(1).sum(1)
        return torch.stack([torch.full_like(z, 9.0), z], 1)


def test_the_optimum_of_brute_force_is_found():
    model, x = Dominated(), torch.full((1, 3, 3, 4), 0.5)
    best = 0.0
    for row, column in product(range(3), range(4)):
        for color in product((0.0, 1.0), repeat=3):
            tried = x.clone()
            tried[0, :, row, column] = torch.tensor(color)
            best = max(best, float(model(tried)[0, 1]))
    draw = SampleRandomness(0, torch.arange(1)).draw
    there = OnePixel(1, 60, 40)(victim(model, x, torch.tensor([0])), BOX, draw)
    assert float(model(there)[0, 1]) > best - 1e-4
    assert there[0, :, 1, 2].tolist() == [1.0, 0.0, 1.0]


def test_fitness_never_falls_and_a_generation_is_a_plain_loop():
    genes = torch.rand(len(X), 9, 2, 5, generator=torch.Generator().manual_seed(0))
    search = Evolution.start(victim(), genes)
    before, fitness = search.genes.clone(), search.fitness.clone()
    search.generation(DRAW("g"), 0.5)
    assert (search.fitness >= fitness).all() and (search.fitness > fitness).any()
    chosen = parents(DRAW("g"), 9, X.device)
    for i in range(len(X)):
        for j in range(9):
            a, b, c = (before[i, int(p[i, j])] for p in chosen)
            child = (a + 0.5 * (b - c)).clamp(0, 1)
            pixels = painted(X[i : i + 1], child[None])
            cost = torch.nn.functional.cross_entropy(MODEL(pixels), Y[i : i + 1])
            better = cost > fitness[i, j]
            expected = child if better else before[i, j]
            torch.testing.assert_close(search.genes[i, j], expected)


def test_parents_differ_from_each_other_and_from_the_child_and_all_come():
    chosen = torch.stack(parents(SampleRandomness(0, torch.arange(500)).draw("p"), 5, X.device))
    child = torch.arange(5).expand(1, 500, 5)
    assert (torch.cat([chosen, child]).sort(0).values.diff(dim=0) > 0).all()
    share = (chosen[2] == 3).float().mean(0)  # of four other members each comes equally often
    assert float(share[3]) == 0 and (share[[0, 1, 2, 4]] - 0.25).abs().max() < 0.06


def test_the_rest_is_counted_without_those_taken():
    taken = [torch.tensor([2]), torch.tensor([0])]
    assert [int(others(torch.tensor([n]), taken)) for n in range(3)] == [1, 3, 4]


def test_candidates_are_forwarded_in_parts(monkeypatch):
    genes = torch.rand(len(X), 9, 1, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(X))
    whole = fitness_of(victim(), rows, genes)
    monkeypatch.setattr("methods.adversarial.attacks.one_pixel.AT_ONCE", 1)
    torch.testing.assert_close(fitness_of(victim(), rows, genes), whole)
