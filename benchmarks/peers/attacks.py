"""What an attack costs beside the network's own passes, torchattacks and foolbox: python
benchmarks/peers/attacks.py --help

PGD and MI-FGSM of k steps are held against k bare passes (forward, gradient of the pixels, nothing
else), the square attack against as many bare forwards. First the images must be those of the peers
to 1e-6, from the same start, with the same steps; the square attack, whose proposals are random, is
fed those that torchattacks draws.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor

from benchmarks.arguments import filled, parser
from benchmarks.contest import Call, Times, contest, peak_bytes
from benchmarks.record import Record, mebibytes
from benchmarks.verdicts import apart, judged
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.losses import LOSSES, Objective, fixed, objective
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.square_attack import AHEAD, Queried, share, square_attack
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.perturbation import evaluating
from recipes.networks.build import build_network
from recipes.step import Embedded

TOLERANCE = 1e-6
STEP = 2 / 255
BARE, OURS = "bare passes", "Roux"
DRAWS = (
    "A query of the square attack draws random numbers of every sample's own, whose cost does not "
    "grow with the network"
)
SIZES = {
    "cpu": {"width": 64, "batch": 16, "queries": 20},
    "cuda": {"width": 64, "batch": 256, "queries": 200},
}


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
        with torch.no_grad():
            self.y = self.bare(self.x).argmax(
                1
            )  # all read right at the start, so that no attack is over too soon
        self.threat = Threat("linf", 8 / 255)

    def network(self, options: argparse.Namespace) -> Any:
        channels = tuple(options.width * 2**i for i in range(4))
        settings = {
            "name": options.network,
            "options": {"channels": channels, "zero_init_last": False},
        }
        made = build_network(
            SimpleNamespace(kind="image", shape=(3, 32, 32)), {"label": 10}, **settings
        )
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
        with evaluating(self.net), fixed(self.net):
            return call()

    def value(self, loss: Any = "ce", rows: Tensor | None = None) -> Objective:
        y = self.y if rows is None else self.y[rows]
        return objective(lambda x: self.net(Embedded(x)).logits, {"label": y}, loss)

    def pgd(self) -> Tensor:
        return self.attack(lambda: pgd(self.value(), self.x, self.threat, self.steps, STEP))

    def mi_fgsm(self) -> Tensor:
        return self.attack(
            lambda: mi_fgsm(self.value(), self.x, self.threat, self.steps, 1.0, STEP)
        )

    def square(self, eps: float, draw: Any = None) -> Queried:
        draw = draw or SampleRandomness(0, torch.arange(len(self.x), device=self.device)).draw
        threat = Threat("linf", eps)
        value = self.value("margin")
        among = lambda rows: self.value("margin", rows)  # noqa: E731
        return self.attack(
            lambda: square_attack(value, self.x, threat, self.queries, draw, among=among)
        )


class Logits(torch.nn.Module):
    """What peers ask for: a module from pixels to logits."""

    def __init__(self, bench: Bench):
        super().__init__()
        self.net = bench.bare_net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Embedded(x)).logits["label"]


# -- peers -----------------------------------------------------------------------------------------
def torchattacks(bench: Bench) -> dict[str, Call]:
    """By attack: a call that gives images. Nothing where the package is not installed."""
    try:
        import torchattacks as library
    except ImportError:
        return {}
    model, eps = Logits(bench).eval(), bench.threat.eps
    made = {
        "PGD": library.PGD(model, eps=eps, alpha=STEP, steps=bench.steps, random_start=False),
        "MI-FGSM": library.MIFGSM(model, eps=eps, alpha=STEP, steps=bench.steps, decay=1.0),
    }
    return {name: lambda attack=attack: attack(bench.x, bench.y) for name, attack in made.items()}


def torchattacks_square(bench: Bench, eps: float) -> Any:
    """The square attack with our schedule of sizes. It counts queries from the one after the
    stripes. None where the package is not installed."""
    try:
        import torchattacks as library
    except ImportError:
        return None
    attack = library.Square(
        Logits(bench).eval(), eps=eps, n_queries=bench.queries - 1, p_init=0.8, seed=0
    )
    attack.p_selection = lambda query: share(query + 1, 0.8)
    return attack


def foolbox(bench: Bench) -> dict[str, Call]:
    """PGD alone: foolbox has no square attack, and its MI-FGSM adds up signs, not g / ‖g‖₁: another
    attack."""
    try:
        import foolbox as library
    except ImportError:
        return {}
    model = library.PyTorchModel(Logits(bench).eval(), bounds=(0, 1), device=bench.device)
    attack = library.attacks.LinfPGD(abs_stepsize=STEP, steps=bench.steps, random_start=False)
    criterion = library.criteria.Misclassification(bench.y)
    return {"PGD": lambda: attack.run(model, bench.x, criterion, epsilon=bench.threat.eps)}


class Shared:
    """Proposals as torchattacks draws them from the global generator: one place and one colour for
    all samples."""

    def __init__(self, x: Tensor, queries: int):
        rows, channels, _, width = x.shape
        self.rows, self.device = rows, x.device
        torch.manual_seed(0)
        self.stripes = torch.rand(rows, channels, 1, width)
        draws = [
            (torch.rand(1), torch.rand(1), torch.rand(channels)) for _ in range(queries + AHEAD)
        ]
        self.drawn = dict(
            zip(("top", "left", "colour"), map(torch.stack, zip(*draws, strict=True)), strict=True)
        )

    def __call__(self, purpose: str) -> "Shared":
        self.purpose, _, self.first = purpose.partition("/")
        return self

    def ahead(self, count: int) -> Tensor:
        """Of as many queries from the first on."""
        return (
            self.drawn[self.purpose][int(self.first) - 1 :][:count]
            .to(self.device)
            .expand(self.rows, count, -1)
        )

    def uniform(self, *shape: int) -> Tensor:
        return self.stripes.to(self.device) if self.purpose == "stripes" else self.ahead(shape[0])

    def integers(self, low: int, high: int, count: int) -> Tensor:
        """The last corner is never drawn there."""
        return (low + (high - 1 - low) * self.ahead(count).squeeze(-1)).long()


# -- proof -----------------------------------------------------------------------------------------
def differences(bench: Bench, eps: list[float]) -> dict[str, float]:
    """The largest difference of a pixel to each peer, by attack and peer; infinite where queries
    differ."""
    ours = {"PGD": bench.pgd(), "MI-FGSM": bench.mi_fgsm()}
    found = {}
    for peer, calls in (("torchattacks", torchattacks(bench)), ("foolbox", foolbox(bench))):
        for name, call in calls.items():
            found[f"{name}, {peer}"] = float((ours[name] - call()).abs().max())
    for radius in eps:
        attack = torchattacks_square(bench, radius)
        if attack is not None:
            found[f"{square_name(radius)}, torchattacks"] = square_difference(bench, radius, attack)
    return found


def square_difference(bench: Bench, eps: float, attack: Any) -> float:
    """One search of theirs without what is around it, which gives back clean images where there was
    no success."""
    mine = bench.square(eps, Shared(bench.x, bench.queries))
    attack.init_hyperparam(bench.x)
    torch.manual_seed(0)
    taken, theirs = attack.attack_single_run(bench.x, bench.y)
    return (
        float((mine.x - theirs).abs().max())
        if torch.equal(taken.long(), mine.queries)
        else float("inf")
    )


def square_name(eps: float) -> str:
    return f"square, eps {eps * 255:g}/255"


# -- measurement -----------------------------------------------------------------------------------
def contenders(bench: Bench, eps: list[float]) -> dict[str, dict[str, Call]]:
    """By attack and contender; who has no such attack is left out."""
    theirs = {"torchattacks": torchattacks(bench), "foolbox": foolbox(bench)}
    found: dict[str, dict[str, Call]] = {}
    for name, ours in (("PGD", bench.pgd), ("MI-FGSM", bench.mi_fgsm)):
        peers = {peer: calls[name] for peer, calls in theirs.items() if name in calls}
        found[f"{name}, {bench.steps} steps"] = {BARE: bench.passes, OURS: ours} | peers
    for radius in eps:
        attack = torchattacks_square(bench, radius)
        own = {BARE: bench.forwards, OURS: lambda radius=radius: bench.square(radius)}
        found[square_name(radius)] = own | square_of(bench, attack)
    return found


def square_of(bench: Bench, attack: Any) -> dict[str, Call]:
    return {} if attack is None else {"torchattacks": lambda: attack(bench.x, bench.y)}


def rows(name: str, times: dict[str, Times], peaks: dict[str, int], by: Any) -> list[list[str]]:
    return [
        [
            label,
            who,
            spent.of(by).text(),
            times[BARE].ratio(spent, by).text(1, 3),
            mebibytes(peaks[who]),
        ]
        for who, spent in times.items()
        for label in [name if who == BARE else ""]
    ]


def measure(bench: Bench, options: argparse.Namespace, record: Record) -> None:
    by = "wall" if options.device == "cuda" else "cpu"
    table, times = [], {}
    for name, calls in contenders(bench, options.eps).items():
        times[name] = contest(calls, options.repeats, options.warmup, device=options.device)
        peaks = {who: peak_bytes(call, options.device) for who, call in calls.items()}
        table += rows(name, times[name], peaks, by)
        record.figures[name] = {
            who: t.of(by).row() | {"peak": peaks[who]} for who, t in times[name].items()
        }
    misread = ", ".join(
        f"{int(bench.square(eps).success.sum())} at {eps * 255:g}/255" for eps in options.eps
    )
    note = (
        f"{options.network} with {options.width} channels, {options.batch} pictures of 32×32; "
        "square attack: "
        f"{options.queries} queries, misread at the end: {misread}. Misread samples are no longer "
        "queried, by ours and "
        "by torchattacks; the bare forwards are of all samples. Ours is given a network in "
        "training mode whose "
        "parameters learn; the others one that is frozen already. "
        "foolbox has no square attack, and its MI-FGSM adds up signs of gradients, which is "
        "another attack."
    )
    head = ["attack", "", "ms a call", "over bare", "peak, MiB"]
    record.table(f"Attacks ({'processor' if by == 'cpu' else 'wall'} time)", head, table, note)
    judge(times, record, by)


def judge(times: dict[str, dict[str, Times]], record: Record, by: Any) -> None:
    over = {name: t[BARE].ratio(t[OURS], by) for name, t in times.items()}
    peers = {
        f"{name}, {who}": t[who].ratio(t[OURS], by)
        for name, t in times.items()
        for who in t
        if who not in (BARE, OURS)
    }
    slow = any("square" in name for name in apart(over, 1.05)[0])
    judged(record, "at most 1.05 times the bare passes", over, 1.05, DRAWS if slow else "")
    if peers:
        judged(record, "not slower than peers, ours over theirs", peers)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, repeats=15, warmup=1)
    made.add_argument("--network", default="resnet18", help="a timm ResNet")
    made.add_argument("--width", type=int, help="channels of its first stage (64)")
    made.add_argument("--batch", type=int, help="pictures (16 on the CPU, 256 on a GPU)")
    made.add_argument("--steps", type=int, default=10, help="k of PGD and MI-FGSM")
    made.add_argument(
        "--queries", type=int, help="of the square attack (20 on the CPU, 200 on a GPU)"
    )
    made.add_argument(
        "--eps",
        type=float,
        nargs="+",
        default=[0.5, 8.0],
        help="radii of the square attack, in 1/255",
    )
    options = filled(made.parse_args(argv), SIZES)
    positive = (options.width, options.batch, options.steps, options.repeats, *options.eps)
    if min(positive) <= 0 or options.queries < 2:
        made.error("sizes, steps, radii and --repeats are positive, --queries at least 2")
    options.eps = [value / 255 for value in options.eps]
    return options


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where images differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    record = Record(
        "peers/attacks", __doc__, options.device, peers=("torchattacks", "foolbox", "timm")
    )
    bench = Bench(options)
    apart = differences(bench, options.eps)
    for name, value in apart.items():
        print(f"{name}: images differ by {value:.1e} at most")
    if any(not value <= TOLERANCE for value in apart.values()):
        print(f"more than {TOLERANCE}: nothing is timed", file=sys.stderr)
        return 1
    record.figures["difference"] = apart
    measure(bench, options, record)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
