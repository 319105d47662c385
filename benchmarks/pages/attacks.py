"""Every attack against the networks of the set `digits_robust`, and how far its points transfer
from one network to another: the sets `digits_attacks` and `digits_transfer` of `results.yaml`.

    python benchmarks/pages/results.py digits_robust     # trains the networks
    python benchmarks/pages/results.py digits_attacks
    python benchmarks/pages/results.py digits_transfer
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import recipes
from datamodules.sources.digits import Digits
from datamodules.views.image.raw import to_unit
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Attack, Victim
from methods.adversarial.attacks.bim import BIM
from methods.adversarial.attacks.dim import DIM
from methods.adversarial.attacks.fgsm import FGSM
from methods.adversarial.attacks.losses import Logits, fixed
from methods.adversarial.attacks.mi_fgsm import MIFGSM
from methods.adversarial.attacks.ni_fgsm import NIFGSM
from methods.adversarial.attacks.one_pixel import OnePixel
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.attacks.tim import TIM
from recipes.step import Embedded

Model = Callable[[Tensor], Logits]
NETWORKS = "digits_robust"  # the set whose networks are attacked
EPS = 0.1
ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(),
    "bim": BIM(),
    "pgd": PGD(20),
    "mi_fgsm": MIFGSM(),
    "ni_fgsm": NIFGSM(),
    "dim": DIM(),
    "tim": TIM(reach=1),
    "square": Square(500),
    "one_pixel": OnePixel(population=100, generations=20),
}


@cache
def samples() -> tuple[Tensor, Tensor]:
    """All test samples: pixels in [0, 1] and labels."""
    test = Digits().load(None).test
    rows = torch.arange(len(test))
    return to_unit(test.fetch(rows)), test.targets["label"]


@cache
def model(folder: Path) -> Model:
    """The network of a run, in evaluation mode, as an attack sees it."""
    network = recipes.load(folder).recipe.reported().eval()

    def logits(x: Tensor) -> Logits:
        with fixed(network):
            return network(Embedded(x)).logits

    return logits


def accuracy(attacked: Tensor, reader: Model) -> float:
    with torch.no_grad():
        right = reader(attacked)["label"].argmax(1) == samples()[1]
    return float(right.float().mean())


@cache
def points(attack: str, folder: Path, seed: int) -> Tensor:
    """x_adv of all test samples, made on the network of a run."""
    x, y = samples()
    draw = SampleRandomness(seed, torch.arange(len(x))).draw
    victim = Victim(model(folder), x, {"label": y})
    return ATTACKS[attack](victim, Threat("linf", EPS), draw)


def numbers(row: str, metrics: list[str], folders: dict[str, Path], seed: int) -> dict[str, float]:
    """One row of a set. folders: of the trained networks, by their row in `digits_robust`."""
    attack, _, source = row.partition(" on ")
    if source:
        attacked = points(attack, folders[source], seed)
        return {reader: accuracy(attacked, model(folders[reader])) for reader in metrics}
    own = folders[row]
    found = {"clean": accuracy(samples()[0], model(own))}
    for name in metrics[1:]:
        found[name] = accuracy(points(name, own, seed), model(own))
    return found
