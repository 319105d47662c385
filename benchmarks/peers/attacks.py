"""What an attack costs beside the network's own passes, torchattacks and foolbox.

PGD and MI-FGSM of k steps are held against k bare passes (forward, gradient of the pixels, nothing
else), the square attack against as many bare forwards. First the images must be those of the peers
to 1e-6, from the same start, with the same steps; the square attack, whose proposals are random, is
fed those that torchattacks draws.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor

from benchmarks.command import Benchmark
from benchmarks.contest import By, Call, Times, beside, measured
from benchmarks.peers.attack_peers import (
    PEER_CALLS,
    STEP,
    Shared,
    torchattacks,
    torchattacks_square,
)
from benchmarks.record import Record
from benchmarks.verdicts import apart, judged
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.losses import LOSSES, Objective, fixed, objective
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.square_attack import Queried, square_attack
from methods.adversarial.attacks.threat import Threat
from recipes.networks.build import build_network
from recipes.networks.network import eval_mode
from recipes.step import Embedded

TOLERANCE = 1e-6
BARE, OURS = "bare passes", "Roux"
DRAWS = (
    "A query of the square attack draws random numbers of every sample's own, whose cost does not "
    "grow with the network"
)
NOTE = (
    "Misread samples are no longer queried, by ours and by torchattacks; the bare forwards are of "
    "all samples. Ours is given a network in training mode whose parameters learn; the others one "
    "that is frozen already. foolbox has no square attack, and its MI-FGSM adds up signs of "
    "gradients, which is another attack."
)
PEERS = ("torchattacks", "foolbox", "timm")
CLI = Benchmark("peers/attacks", __doc__, PEERS, repeats=15, warmup=1, least=0.05)
CLI.add("network", "resnet18", "a timm ResNet")
CLI.add("width", 64, "channels of its first stage", least=1)
CLI.add("batch", {"cpu": 16, "cuda": 256}, "pictures", least=1)
CLI.add("steps", 10, "k of PGD and MI-FGSM", least=1)
CLI.add("queries", {"cpu": 20, "cuda": 200}, "of the square attack", least=2)
CLI.add("eps", [0.5, 8.0], "radii of the square attack, in 1/255", least=0.001)


class Bench:
    """One network and one batch that all contenders share. `net` has parameters that ask for
    gradients, as in a run; bare passes and peers get `bare`, the same weights without, which is the
    best that they can have."""

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        self.device, self.steps, self.queries = options.device, options.steps, options.queries
        self.net, self.bare_net = (self.network(options) for _ in range(2))
        self.bare_net.load_state_dict(self.net.state_dict())
        self.bare_net.eval().requires_grad_(False)
        self.x = torch.rand(options.batch, 3, 32, 32, device=self.device)
        # all are read right at the start, so that no attack is over too soon
        with torch.no_grad():
            self.y = self.bare(self.x).argmax(1)
        self.threat = Threat("linf", 8 / 255)

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

    @torch.no_grad()
    def forwards(self) -> None:
        for _ in range(self.queries):
            self.bare(self.x)

    # -- ours, as training methods and robust accuracy run them ------------------------------------
    def attack(self, call: Callable[[], Any]) -> Any:
        with eval_mode(self.net), fixed(self.net):
            return call()

    def value(self, loss: Any = "ce", rows: Tensor | None = None) -> Objective:
        y = self.y if rows is None else self.y[rows]
        return objective(lambda x: self.net(Embedded(x)).logits, {"label": y}, loss)

    def pgd(self) -> Tensor:
        return self.attack(lambda: pgd(self.value(), self.x, self.threat, self.steps, STEP))

    def mi_fgsm(self) -> Tensor:
        settings = self.x, self.threat, self.steps, 1.0, STEP
        return self.attack(lambda: mi_fgsm(self.value(), *settings))

    def square(self, eps: float, draw: Any = None) -> Queried:
        draw = draw or SampleRandomness(0, torch.arange(len(self.x), device=self.device)).draw
        settings = self.x, Threat("linf", eps), self.queries, draw

        def among(rows: Tensor) -> Objective:
            return self.value("margin", rows)

        return self.attack(lambda: square_attack(self.value("margin"), *settings, among=among))


# -- proof -----------------------------------------------------------------------------------------
def differences(bench: Bench, eps: list[float]) -> dict[str, float]:
    """The largest difference of a pixel to each peer, by attack and peer; infinite where queries
    differ."""
    ours = {"PGD": bench.pgd(), "MI-FGSM": bench.mi_fgsm()}
    found = {}
    for peer, calls_of in PEER_CALLS.items():
        for name, call in calls_of(bench).items():
            found[f"{name}, {peer}"] = float((ours[name] - call()).abs().max())
    for radius in eps if torchattacks is not None else []:
        found[f"{square_name(radius)}, torchattacks"] = square_difference(bench, radius)
    return found


def square_difference(bench: Bench, eps: float) -> float:
    """One search of theirs without what is around it, which gives back clean images where there was
    no success."""
    mine = bench.square(eps, Shared(bench.x, bench.queries))
    attack = torchattacks_square(bench, eps)
    attack.init_hyperparam(bench.x)
    torch.manual_seed(0)
    taken, theirs = attack.attack_single_run(bench.x, bench.y)
    if not torch.equal(taken.long(), mine.queries):
        return float("inf")
    return float((mine.x - theirs).abs().max())


def square_name(eps: float) -> str:
    return f"square, eps {eps * 255:g}/255"


# -- measurement -----------------------------------------------------------------------------------
def contenders(bench: Bench, eps: list[float]) -> dict[str, dict[str, Call]]:
    """By attack and contender; who has no such attack is left out."""
    theirs = {peer: calls_of(bench) for peer, calls_of in PEER_CALLS.items()}
    found: dict[str, dict[str, Call]] = {}
    for name, ours in (("PGD", bench.pgd), ("MI-FGSM", bench.mi_fgsm)):
        peers = {peer: calls[name] for peer, calls in theirs.items() if name in calls}
        found[f"{name}, {bench.steps} steps"] = {BARE: bench.passes, OURS: ours} | peers
    for radius in eps:
        own: dict[str, Call] = {BARE: bench.forwards, OURS: partial(bench.square, radius)}
        if torchattacks is not None:
            own["torchattacks"] = partial(torchattacks_square(bench, radius), bench.x, bench.y)
        found[square_name(radius)] = own
    return found


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    bench, by = Bench(options), options.by
    radii = [value / 255 for value in options.eps]
    off = differences(bench, radii)
    for name, value in off.items():
        print(f"{name}: images differ by {value:.1e} at most")
    if any(not value <= TOLERANCE for value in off.values()):
        return f"more than {TOLERANCE}: nothing is timed"
    record.figures["difference"] = off
    table, times = [], {}
    for name, calls in contenders(bench, radii).items():
        times[name] = measured(calls, options)
        lines = beside(BARE, times[name], by, 3)
        table += [[name if line[0] == BARE else "", *line] for line in lines]
        record.figures[name] = {who: one.figures(by) for who, one in times[name].items()}
    misread = []
    for radius in radii:
        count = int(bench.square(radius).success.sum())
        misread.append(f"{count} at {radius * 255:g}/255")
    size = f"{options.network} with {options.width} channels, {options.batch} pictures of 32×32"
    queried = f"square attack: {options.queries} queries, misread at the end: {', '.join(misread)}"
    head = ["attack", "", "ms a call", "over bare", "peak, MiB"]
    clock = "processor" if by == "cpu" else "wall"
    record.table(f"Attacks ({clock} time)", head, table, f"{size}; {queried}. {NOTE}")
    judge(times, record, by)
    return None


def judge(times: dict[str, dict[str, Times]], record: Record, by: By) -> None:
    over, peers = {}, {}
    for name, one in times.items():
        over[name] = one[BARE].ratio(one[OURS], by)
        for who in [who for who in one if who not in (BARE, OURS)]:
            peers[f"{name}, {who}"] = one[who].ratio(one[OURS], by)
    slow = any("square" in name for name in apart(over, 1.05)[0])
    judged(record, "at most 1.05 times the bare passes", over, 1.05, DRAWS if slow else "")
    if peers:
        judged(record, "not slower than peers, ours over theirs", peers)


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
