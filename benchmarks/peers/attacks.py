"""What a gradient attack costs beside the network's own passes, and beside torchattacks.

PGD, BIM, MI-, NI- and TI-FGSM of k steps are held against k bare passes: forward, gradient of the
pixels, nothing else. First the images must be those of the peer to 1e-6, from the same start, with
the same steps, in float64: in float32 a gradient near zero changes its sign with the order of a
sum, and later steps with it.
"""

import argparse
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import By, Times
from benchmarks.command import Benchmark
from benchmarks.contest import Call, beside, measured
from benchmarks.record import Record
from benchmarks.verdicts import judged
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.bim import BIM
from methods.adversarial.attacks.losses import LOSSES, fixed
from methods.adversarial.attacks.mi_fgsm import MIFGSM
from methods.adversarial.attacks.ni_fgsm import NIFGSM
from methods.adversarial.attacks.pgd import PGD
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.attacks.tim import TIM
from recipes.networks.build import build_network
from recipes.networks.network import eval_mode
from recipes.step import Embedded

try:
    import torchattacks
except ImportError:
    torchattacks = None

TOLERANCE = 1e-6
STEP = 2 / 255
BARE, OURS, PEER = "bare passes", "Roux", "torchattacks"
NOTE = (
    "Ours is given a network in training mode whose parameters learn; the others one that is "
    "frozen already."
)
SMOOTHING = "TI-FGSM smooths each gradient by a kernel of 15 × 15, as the peer does"
CLI = Benchmark("peers/attacks", __doc__, (PEER, "timm"), repeats=15, warmup=1, least=0.05)
CLI.add("network", "resnet18", "a timm ResNet")
CLI.add("width", 64, "channels of its first stage", least=1)
CLI.add("batch", {"cpu": 16, "cuda": 256}, "pictures", least=1)
CLI.add("steps", 10, "k, steps of every attack", least=1)


class Bench:
    """One network and one batch that all contenders share. `net` has parameters that ask for
    gradients, as in a run; bare passes and peers get `bare_net`, the same weights without, which is
    the best that they can have."""

    def __init__(self, options: argparse.Namespace, dtype: torch.dtype = torch.float32):
        torch.manual_seed(0)
        self.device = options.device
        self.steps = options.steps
        self.net, self.bare_net = (self.network(options).to(dtype) for _ in range(2))
        self.bare_net.load_state_dict(self.net.state_dict())
        self.bare_net.eval().requires_grad_(False)
        self.x = torch.rand(options.batch, 3, 32, 32, device=self.device).to(dtype)
        with torch.no_grad():
            self.y = self.bare(self.x).argmax(1)
        self.threat = Threat("linf", 8 / 255)
        rows = torch.arange(options.batch, device=self.device)
        self.draw: Draws = SampleRandomness(0, rows).draw

    def network(self, options: argparse.Namespace) -> Any:
        channels = tuple(options.width * 2**i for i in range(4))
        more = {"channels": channels, "zero_init_last": False}
        info = SimpleNamespace(kind="image", shape=(3, 32, 32))
        made = build_network(info, {"label": 10}, name=options.network, options=more)
        return made.to(self.device)

    def bare(self, x: Tensor) -> Tensor:
        return self.bare_net(Embedded(x)).logits["label"]

    def passes(self) -> None:
        """k forwards with the gradient of the pixels."""
        for _ in range(self.steps):
            leaf = self.x.clone().requires_grad_(True)
            torch.autograd.grad(LOSSES["ce"](self.bare(leaf), self.y).sum(), leaf)

    # -- ours, as training methods and robust accuracy run them ------------------------------------
    def attack(self, attack: Attack) -> Tensor:
        with eval_mode(self.net), fixed(self.net):
            victim = Victim(lambda x: self.net(Embedded(x)).logits, self.x, {"label": self.y})
            return attack(victim, self.threat, self.draw)


class Logits(torch.nn.Module):
    """What the peer asks for: a module from pixels to logits."""

    def __init__(self, bench: Bench):
        super().__init__()
        self.net = bench.bare_net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Embedded(x)).logits["label"]


# ours, the peer's class and its settings beside radius, step and number of steps; without random
# numbers, so that the images can be compared
PAIRS: dict[str, tuple[Callable[[int], Attack], str, dict[str, Any]]] = {
    "PGD": (lambda k: PGD(k, STEP, random_start=False), "PGD", {"random_start": False}),
    "BIM": (lambda k: BIM(k, STEP), "BIM", {}),
    "MI-FGSM": (lambda k: MIFGSM(k, STEP), "MIFGSM", {"decay": 1.0}),
    "NI-FGSM": (lambda k: NIFGSM(k, STEP), "NIFGSM", {"decay": 1.0}),
    "TI-FGSM": (lambda k: TIM(k, STEP), "TIFGSM", {"decay": 0.0, "diversity_prob": 0.0}),
}


def contenders(bench: Bench) -> dict[str, dict[str, Call]]:
    """By attack and contender; all but the bare passes return images."""
    found: dict[str, dict[str, Call]] = {}
    same = {"eps": bench.threat.eps, "alpha": STEP, "steps": bench.steps}
    for name, (make, peer, settings) in PAIRS.items():
        ours = partial(bench.attack, make(bench.steps))
        found[name] = {BARE: bench.passes, OURS: ours}
        if torchattacks is not None:
            theirs = getattr(torchattacks, peer)(Logits(bench).eval(), **same, **settings)
            if isinstance(theirs, torchattacks.TIFGSM):
                theirs.stacked_kernel = theirs.stacked_kernel.to(bench.x.dtype)
            found[name][PEER] = partial(theirs, bench.x, bench.y)
    return found


def differences(calls: dict[str, dict[str, Call]]) -> dict[str, float]:
    """The largest difference of a pixel to the peer's images, by attack."""
    found = {}
    for name, own in calls.items():
        if PEER in own:
            found[name] = float((own[OURS]() - own[PEER]()).abs().max())
    return found


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    off = differences(contenders(Bench(options, torch.float64)))
    for name, value in off.items():
        print(f"{name}: images differ by {value:.1e} at most")
    if any(not value <= TOLERANCE for value in off.values()):
        return f"more than {TOLERANCE}: nothing is timed"
    rows, times = [], {}
    for attack, own in contenders(Bench(options)).items():
        name = f"{attack}, {options.steps} steps"
        times[name] = measured(own, options)
        for line in beside(BARE, times[name], options.by, 3):
            rows.append([name if line[0] == BARE else "", *line])
    size = f"{options.network} with {options.width} channels, {options.batch} pictures of 32×32"
    head = ["attack", "", "ms a call", "over bare", "peak, MiB"]
    clock = "processor" if options.by == "cpu" else "wall"
    record.table(f"Attacks ({clock} time)", head, rows, f"{size}. {NOTE}")
    judge(times, record, options.by)
    return None


def judge(times: dict[str, dict[str, Times]], record: Record, by: By) -> None:
    over, peers = {}, {}
    for name, one in times.items():
        over[name] = one[BARE].ratio(one[OURS], by)
        if PEER in one:
            peers[name] = one[PEER].ratio(one[OURS], by)
    judged(record, "at most 1.05 times the bare passes", over, 1.05, SMOOTHING)
    if peers:
        judged(record, "not slower than torchattacks, ours over theirs", peers)


if __name__ == "__main__":
    CLI.start(measure)
