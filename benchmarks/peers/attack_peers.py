"""The other side of `attacks.py`: torchattacks and foolbox, and the random numbers that the first
draws. A bench is that of `attacks.py`."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import Call
from methods.adversarial.attacks.square_attack import AHEAD, share
from recipes.step import Embedded

try:
    import torchattacks
except ImportError:
    torchattacks = None
try:
    import foolbox
except ImportError:
    foolbox = None

STEP = 2 / 255


class Logits(torch.nn.Module):
    """What peers ask for: a module from pixels to logits."""

    def __init__(self, bench: Any):
        super().__init__()
        self.net = bench.bare_net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Embedded(x)).logits["label"]


def with_torchattacks(bench: Any) -> dict[str, Call]:
    """By attack: a call that gives images. Nothing where the package is not installed."""
    if torchattacks is None:
        return {}
    model, same = Logits(bench).eval(), {"eps": bench.threat.eps, "alpha": STEP}
    first = torchattacks.PGD(model, steps=bench.steps, random_start=False, **same)
    second = torchattacks.MIFGSM(model, steps=bench.steps, decay=1.0, **same)
    return {"PGD": lambda: first(bench.x, bench.y), "MI-FGSM": lambda: second(bench.x, bench.y)}


def torchattacks_square(bench: Any, eps: float) -> Any:
    """The square attack with our schedule of sizes. It counts queries from the one after the
    stripes."""
    settings = {"eps": eps, "n_queries": bench.queries - 1, "p_init": 0.8, "seed": 0}
    attack = torchattacks.Square(Logits(bench).eval(), **settings)
    attack.p_selection = lambda query: share(query + 1, 0.8)
    return attack


def with_foolbox(bench: Any) -> dict[str, Call]:
    """PGD alone: foolbox has no square attack, and its MI-FGSM adds up signs, not g / ‖g‖₁: another
    attack."""
    if foolbox is None:
        return {}
    model = foolbox.PyTorchModel(Logits(bench).eval(), bounds=(0, 1), device=bench.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=bench.steps, random_start=False)
    criterion = foolbox.criteria.Misclassification(bench.y)
    return {"PGD": lambda: attack.run(model, bench.x, criterion, epsilon=bench.threat.eps)}


PEER_CALLS = {"torchattacks": with_torchattacks, "foolbox": with_foolbox}


class Shared:
    """Proposals as torchattacks draws them from the global generator: one place and one colour for
    all samples."""

    def __init__(self, x: Tensor, queries: int):
        rows, channels, _, width = x.shape
        self.rows, self.device = rows, x.device
        torch.manual_seed(0)
        self.stripes = torch.rand(rows, channels, 1, width)
        shapes = {"top": 1, "left": 1, "colour": channels}
        draws = []
        for _ in range(queries + AHEAD):
            draws.append([torch.rand(count) for count in shapes.values()])
        stacked = map(torch.stack, zip(*draws, strict=True))
        self.drawn = dict(zip(shapes, stacked, strict=True))

    def __call__(self, purpose: str) -> "Shared":
        self.purpose, _, self.first = purpose.partition("/")
        return self

    def ahead(self, count: int) -> Tensor:
        """Of as many queries from the first on."""
        drawn = self.drawn[self.purpose][int(self.first) - 1 :][:count]
        return drawn.to(self.device).expand(self.rows, count, -1)

    def uniform(self, *shape: int) -> Tensor:
        return self.stripes.to(self.device) if self.purpose == "stripes" else self.ahead(shape[0])

    def integers(self, low: int, high: int, count: int) -> Tensor:
        """The last corner is never drawn there."""
        return (low + (high - 1 - low) * self.ahead(count).squeeze(-1)).long()
