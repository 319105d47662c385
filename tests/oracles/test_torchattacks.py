"""Attacks, point by point, against torchattacks on a small convolutional network in evaluation
mode.

An attack has no gradient of its own to compare; that of its objective is in every step, and for l2
in full.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from foundation.randomness import generator
from methods.adversarial.attacks.attack import Victim
from methods.adversarial.attacks.bim import BIM
from methods.adversarial.attacks.dim import DIM
from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.losses import input_gradient
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.ni_fgsm import NIFGSM
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.square_attack import square_attack, upwards
from methods.adversarial.attacks.threat import Threat, length, per_sample
from methods.adversarial.attacks.tim import TIM
from recipes.step.criterion import kl_divergence
from tests.support.comparison import installed
from tests.support.worked_attacks import convolutional, of, pictures

MODEL = convolutional()
X, Y = pictures()
CE = of(MODEL, Y)
LINF = Threat("linf", 0.1)


def theirs(name: str, **settings: Any) -> torch.Tensor:
    return getattr(installed("torchattacks"), name)(MODEL, **settings)(X, Y)


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((ours - X).abs().max()) > 1e-3
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_fgsm():
    close(fgsm(CE, X, LINF), theirs("FGSM", eps=0.1))


@pytest.mark.parametrize(("name", "settings"), [("PGD", {"random_start": False}), ("BIM", {})])
def test_pgd_without_a_start(name, settings):
    close(pgd(CE, X, LINF, 7, 0.03), theirs(name, eps=0.1, alpha=0.03, steps=7, **settings))


def test_pgd_from_their_start():
    torch.manual_seed(5)
    start = torch.empty_like(X).uniform_(-0.1, 0.1)
    torch.manual_seed(5)
    close(
        pgd(CE, X, LINF, 7, 0.03, start),
        theirs("PGD", eps=0.1, alpha=0.03, steps=7, random_start=True),
    )


@pytest.mark.parametrize("steps", [1, 7])
def test_pgd_l2(steps):
    settings = {"eps": 1.0, "alpha": 0.3, "random_start": False, "eps_for_division": 1e-10}
    close(pgd(CE, X, Threat("l2", 1.0), steps, 0.3), theirs("PGDL2", steps=steps, **settings))


def test_a_small_l2_step_is_along_our_gradient():
    inside = 0.5 + 0.5 * (X - 0.5)  # away from the box
    attack = installed("torchattacks").PGDL2(
        MODEL, eps=1.0, alpha=0.01, steps=1, random_start=False
    )
    gradient = input_gradient(CE, inside)
    expected = inside + 0.01 * gradient / per_sample(length(gradient), gradient)
    torch.testing.assert_close(attack(inside, Y), expected, atol=1e-6, rtol=0)


def test_towards_the_least_likely_class():
    """Theirs leaves the given label out, so it is given one that is not the least likely."""
    logits = MODEL(X)
    attack = installed("torchattacks").BIM(MODEL, eps=0.1, alpha=0.03, steps=7)
    attack.set_mode_targeted_least_likely(1)
    objective = of(MODEL, logits.argmin(1), sign=-1.0)
    close(pgd(objective, X, LINF, 7, 0.03), attack(X, logits.argmax(1)))


@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_mi_fgsm(momentum):
    expected = theirs("MIFGSM", eps=0.1, alpha=0.01, steps=10, decay=momentum)
    close(mi_fgsm(CE, X, LINF, 10, momentum), expected)


def ours(attack: Any, draw: Any = None) -> torch.Tensor:
    """An attack object on the same pictures; without random numbers unless they are given."""
    return attack(Victim(lambda x: {"label": MODEL(x)}, X, {"label": Y}), LINF, draw)


def no_draw(purpose: str) -> None:
    """For attacks that draw nothing."""


def test_bim():
    close(ours(BIM(7, 0.03)), theirs("BIM", eps=0.1, alpha=0.03, steps=7))


@pytest.mark.parametrize("momentum", [1.0, 0.5])
def test_ni_fgsm(momentum):
    expected = theirs("NIFGSM", eps=0.1, alpha=0.02, steps=10, decay=momentum)
    close(ours(NIFGSM(10, 0.02, momentum)), expected)


@pytest.mark.parametrize("momentum", [1.0, 0.0])
@pytest.mark.parametrize(("name", "reach"), [("gaussian", 2), ("linear", 2), ("uniform", 1)])
def test_tim(name, reach, momentum):
    """Theirs has σ = 3 / (size // 2) in coordinates of [-3, 3], which is k/3."""
    settings = {"kernel_name": name, "len_kernel": 2 * reach + 1, "nsig": 3, "diversity_prob": 0.0}
    expected = theirs("TIFGSM", eps=0.1, alpha=0.02, steps=6, decay=momentum, **settings)
    close(ours(TIM(6, 0.02, momentum, name, reach), no_draw), expected)


class OneForAll:
    """The package's random numbers, in its order: a coin last, one draw for all pictures."""

    def __init__(self, probability: float, side: int, least: int):
        self.sides = (least, side)
        self.probability = probability

    def __call__(self, purpose: str) -> Any:
        least, side = self.sides
        chosen = int(torch.randint(least, side, (1,)))
        top, left = (int(torch.randint(0, side - chosen, (1,))) for _ in range(2))
        coin = float(torch.rand(1))
        rows = len(X)
        # the middle of the interval that becomes this corner
        places = torch.tensor([(corner + 0.5) / (side - chosen) for corner in (top, left)])

        def uniform(*shape: int) -> torch.Tensor:
            return places.expand(rows, 2) if shape else torch.full((rows,), coin)

        return SimpleNamespace(uniform=uniform, integers=lambda *_: torch.full((rows,), chosen))


@pytest.mark.parametrize(("momentum", "probability"), [(0.0, 1.0), (1.0, 0.5)])
def test_dim(momentum, probability):
    settings = {"resize_rate": 0.5, "diversity_prob": probability, "decay": momentum}
    torch.manual_seed(6)
    expected = theirs("DIFGSM", eps=0.1, alpha=0.02, steps=8, **settings)
    torch.manual_seed(6)
    draw = OneForAll(probability, side=8, least=4)
    close(ours(DIM(8, 0.02, momentum, probability, resize=0.5), draw), expected)


def test_the_inner_loop_of_trades():
    """TPGD draws .001 N(0, I) from the global generator, once."""
    torch.manual_seed(4)
    expected = theirs("TPGD", eps=0.1, alpha=0.03, steps=6)
    torch.manual_seed(4)
    noise = 0.001 * torch.randn_like(X)
    reference = MODEL(X).detach()
    close(
        pgd(
            lambda v: kl_divergence(reference, MODEL(v), from_logits=True), X, LINF, 6, 0.03, noise
        ),
        expected,
    )


class Shared:
    """Random numbers by purpose and query, the same for all pictures, which the package draws once
    a query."""

    def __init__(self, rows: int):
        self.rows = rows

    def uniform_of(self, name: str, query: int, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator("square", name, query))

    def draw(self, purpose: str) -> Any:
        """Ours draws for the queries from the named one on."""
        name, _, first = purpose.partition("/")

        def several(count: int, *shape: int) -> torch.Tensor:
            drawn = [self.uniform_of(name, int(first) + ahead, *shape) for ahead in range(count)]
            return torch.stack(drawn).expand(self.rows, count, *shape)

        def integers(low: int, high: int, count: int) -> torch.Tensor:
            # theirs draws from [0, H - s), ours from [0, H - s]
            return (low + (high - 1 - low) * several(count)).long()

        def uniform(*shape: int) -> torch.Tensor:
            return (
                self.uniform_of(name, 0, self.rows, *shape)
                if name == "stripes"
                else several(*shape)
            )

        return SimpleNamespace(integers=integers, uniform=uniform)


@pytest.mark.parametrize(("eps", "queries"), [(0.02, 260), (0.1, 60)])
def test_square_attack(eps, queries):
    """Every query of a run with equal random numbers. Theirs counts squares from zero, so that the
    first size lasts for one more; AutoAttack and ours count from one, to which it is set here."""
    y = MODEL(X).argmax(1)  # of pictures that are read right
    shared, at = Shared(len(X)), iter(range(1, queries))
    peer = installed("torchattacks").Square(
        MODEL, eps=eps, n_queries=queries - 1, resc_schedule=False
    )
    size_of, query = peer.p_selection, [0]

    def next_size(it: int) -> float:
        query[0] = next(at)
        return size_of(it + 1)

    def place(low: int, high: int) -> int:
        name = "top" if query[0] not in used else "left"
        used.add(query[0])
        return int(low + (high - low) * shared.uniform_of(name, query[0]))

    def colours(shape: list[int]) -> torch.Tensor:
        if not query[0]:
            return torch.where(upwards(shared.uniform_of("stripes", 0, *shape)), 1.0, -1.0)
        drawn = shared.uniform_of("colour", query[0], shape[0])
        return torch.where(upwards(drawn), 1.0, -1.0).view(shape)

    used: set[int] = set()
    peer.p_selection, peer.random_int, peer.random_choice = next_size, place, colours
    peer.init_hyperparam(X)
    taken, expected = peer.attack_single_run(X, y)
    found = square_attack(of(MODEL, y, "margin"), X, Threat("linf", eps), queries, shared.draw)
    torch.testing.assert_close(found.x, expected, atol=1e-6, rtol=0)
    assert found.queries.tolist() == taken.long().tolist()
    assert len(found.queries.unique()) > 1
