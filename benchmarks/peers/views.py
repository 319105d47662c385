"""Weak and strong views a second, ours batched on the device beside Pillow's picture by picture.

Every operation at every level is first compared with the peers' own on the same pictures, or the
script exits with status 1. TorchSSL's RandAugment is loaded from a copy of its repository
(--torchssl PATH); without one the same file of semilearn is taken where that is installed. With two
cores the peers have two worker processes and ours two threads; on one core everything runs on that
core.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import transforms

from benchmarks.command import Benchmark
from benchmarks.contest import Times, contest
from benchmarks.made import pictures
from benchmarks.peers import view_peers as peer
from benchmarks.record import Record
from datamodules.source import DataInfo
from datamodules.views.image import GEOMETRIC, OPERATIONS, Strong, Weak
from datamodules.views.image.operations import apply_operations
from datamodules.views.image.randaugment import VARIANTS, values_of
from foundation.randomness import Randomness
from recipes.networks import build_network
from recipes.step import Embedded

EQUAL = 0.999  # share of pixels that must be equal; the rest are ties of rounding
LEVELS = range(11)
ROOM = 4  # batches in one pass of a loader
NOTE = "Photometric operations are at most one grey level apart."
SOURCE = f"folder of TorchSSL's repository, or its {peer.PUBLISHED}"
CLI = Benchmark("peers/views", __doc__, ["torchvision", "pillow", "semilearn"], repeats=5)
CLI.add_argument("--torchssl", type=Path, help=SOURCE)
CLI.add("sides", [32, 224], "of the pictures", least=8)
CLI.add("batch", 448, "pictures of 32×32 in a batch, 1/14 of larger ones", least=1)
CLI.add("cores", [1, 2], "races on so many cores", least=1)
CLI.add("step_batch", {"cpu": 4, "cuda": 64}, "labeled pictures of a step, 0: none", least=0)


class Peer(NamedTuple):
    """variant: ours of the same kind. operate: one operation of it; whole: it moves by whole
    pixels."""

    variant: str
    randaugment: Any
    operate: peer.Operate
    whole: bool


# -- equal first -----------------------------------------------------------------------------------
def table(variant: str, name: str) -> list[float]:
    """The values of an operation at all levels, on both sides where it has two."""
    level = torch.tensor(list(LEVELS), dtype=torch.float64).repeat(2)
    codes = torch.full_like(level, OPERATIONS.index(name), dtype=torch.long)
    negative = torch.arange(len(level)) >= len(LEVELS)
    values = values_of(VARIANTS[variant].table(), codes, level, negative)
    return sorted(set(values.tolist()))


def least_equal(
    variant: str, operate: peer.Operate, side: int, whole: bool = False
) -> tuple[float, str]:
    """The least share of equal pixels of any operation at any level, and of which one. whole:
    translations by whole pixels only."""
    pixels, worst = pictures(6, side), (1.0, "all")
    for name in OPERATIONS:
        values = table(variant, name)
        for value in peer.torchvision_values(name, values, side) if whole else values:
            codes = torch.full((len(pixels), 1), OPERATIONS.index(name))
            amounts = torch.full(codes.shape, value).double()
            ours = apply_operations(pixels.clone(), codes, amounts, OPERATIONS, 0)
            each = [peer.from_pil(operate(peer.to_pil(one), name, value)) for one in pixels]
            off = (ours.int() - torch.stack(each).int()).abs()
            if name not in GEOMETRIC and off.max() > 1:
                return 0.0, f"{name} {value:g}: {int(off.max())} grey levels apart"
            worst = min(worst, ((off == 0).float().mean().item(), f"{name} {value:g}"))
    return worst


def prove(record: Record, peers: dict[str, Peer], side: int) -> bool:
    rows, equal = [], True
    for name, one in peers.items():
        share, which = least_equal(one.variant, one.operate, side, one.whole)
        equal &= share >= EQUAL
        rows.append([name, one.variant, f"{share * 100:.3f} %", which if share < 1 else ""])
    note = f"{NOTE} TorchSSL is left out without --torchssl."
    head = ["", "variant", "at least", "of"]
    record.table("Pixels equal, every operation at every level", head, rows, note)
    return equal


# -- the race --------------------------------------------------------------------------------------
class Ours:
    """Batches of a set in memory, weak and strong view of each on the device."""

    def __init__(self, pixels: Tensor, variant: str, batch: int, device: str):
        self.pixels, self.batch, self.device, self.step = pixels, batch, device, 0
        self.weak, self.strong = Weak(), Strong(variant=variant)  # type: ignore[arg-type]

    def views(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.step += 1
        pixels = self.pixels.index_select(0, rows).to(self.device, non_blocking=True)
        draw = Randomness(0, self.step, device=self.device).draw
        weak = self.weak(pixels, lambda purpose: draw(f"weak/{purpose}", len(rows)))
        return weak, self.strong(pixels, lambda purpose: draw(f"strong/{purpose}", len(rows)))

    def __call__(self) -> None:
        """One pass."""
        for rows in torch.arange(len(self.pixels)).split(self.batch):
            self.views(rows)


def on_cores(count: int) -> list[int]:
    """Bind this process, and the workers it starts, to so many of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:count])
    torch.set_num_threads(count)
    return cores


def one_race(side: int, cores: int, peers: dict[str, Peer], options: Any) -> dict[str, Times]:
    """All contenders on so many cores, a pass each in turn; seconds a view."""
    batch = options.batch if side < 100 else max(options.batch // 14, 1)
    pixels = pictures(ROOM * batch, side)
    channels_last = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    workers = 0 if cores == 1 else cores
    before = on_cores(cores)
    try:
        calls: dict[str, Callable[[], Any]] = {}
        for variant in ("fixmatch", "usb", "nm"):
            calls[f"Roux, {variant}"] = Ours(pixels, variant, batch, options.device)
        for name, one in peers.items():
            source = peer.loader(peer.Pairs(channels_last, one.randaugment), batch, workers)
            calls[name] = peer.passes(source, options.device)
        found = contest(calls, options.repeats, warmup=1, device=options.device)
    finally:
        os.sched_setaffinity(0, before)
    for times in found.values():
        times.wall = [seconds / (2 * len(pixels)) for seconds in times.wall]
    return found


def races(record: Record, peers: dict[str, Peer], options: argparse.Namespace) -> None:
    available = len(os.sched_getaffinity(0))
    low = {}
    for cores in sorted({count for count in options.cores if count <= available}):
        rows = []
        for side in options.sides:
            found = one_race(side, cores, peers, options)
            for name, times in found.items():
                rates = sorted(1 / seconds for seconds in times.wall)
                text = f"{rates[len(rates) // 2]:.0f} ({rates[0]:.0f}..{rates[-1]:.0f})"
                record.figures[f"{side}/{cores}/{name}"] = {"views_a_second": rates}
                faster = ""
                if name in peers:
                    ratio = found[f"Roux, {peers[name].variant}"].ratio(times)
                    faster = ratio.text(1, 1)
                    if side == 32:
                        low[cores, name] = ratio.median
                rows.append([f"{side}×{side}", name, text, faster])
        where = f"{cores} cores, {cores} workers or threads"
        where = "one core, the loader in the process" if cores == 1 else where
        head = ["pictures", "who", "views a second", "ours of the same variant, times as fast"]
        note = "Half of the views are weak, half are strong."
        record.table(f"Weak and strong views, {where}", head, rows, note)
    if low:
        measured = [f"{ratio:.1f} ({name}, {cores} cores)" for (cores, name), ratio in low.items()]
        why = "of a GPU: see its table" if options.device == "cuda" else ""
        text = "at least 5 times as fast on the CPU for 32×32"
        record.target(text, ", ".join(measured), min(low.values()) >= 5, why)


# -- beside the network ----------------------------------------------------------------------------
def step_share(record: Record, options: argparse.Namespace) -> None:
    """The views of a FixMatch batch beside forward and backward of a WRN-28-2 on them."""
    labeled, device = options.step_batch, options.device
    info = DataInfo("image", {"label": 10}, (3, 32, 32))
    network: nn.Module = build_network(info, {"label": 10}, name="wrn_28_2").to(device)
    unlabeled = 7 * labeled
    ours = Ours(pictures(unlabeled, 32), "fixmatch", unlabeled, device)
    pixels, rows = pictures(labeled, 32, 1), torch.arange(unlabeled)
    x = torch.rand(labeled + 2 * unlabeled, 3, 32, 32, device=device)
    y = torch.randint(0, 10, (len(x),), device=device)

    def views() -> None:
        draw = Randomness(0, 0, device=device).draw
        ours.weak(pixels.to(device), lambda purpose: draw(purpose, labeled))
        ours.views(rows)

    def step() -> None:
        cross_entropy(network(Embedded(x)).logits["label"], y).backward()
        network.zero_grad()

    found = contest({"views": views, "step": step}, options.repeats, warmup=1, device=device)
    share = found["step"].ratio(found["views"])
    lines = [[name, one.of().text(1e3, 1)] for name, one in found.items()]
    lines.append(["views / step, %", share.text(100, 2)])
    size = f"{labeled} + 2 · {unlabeled} pictures of 32×32"
    title = f"Views beside forward and backward of a WRN-28-2, {size}"
    record.table(title, ["ms", options.device], lines)
    text = "on a GPU views cost under 10 % of a WRN-28-2 step"
    percent = share.median * 100
    if device == "cuda":
        record.target(text, f"{percent:.1f} %", percent < 10)
    else:
        why = "measured on a CPU, where the network costs the most"
        record.target(text, f"{percent:.1f} %", None, why)


def find_peers(options: argparse.Namespace) -> dict[str, Peer]:
    augment = transforms.RandAugment(2, 9)
    peers = {"torchvision / Pillow": Peer("nm", augment, peer.torchvision_operation, True)}
    path = options.torchssl or peer.semilearn_folder()
    if path is not None:
        module = peer.load_torchssl(path)
        name = "TorchSSL" if options.torchssl else "semilearn"
        operate = peer.torchssl_operation(module)
        peers[name] = Peer("usb", module.RandAugment(3, 5), operate, False)
    return peers


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    record.hide(options.torchssl)
    peers = find_peers(options)
    if not prove(record, peers, min(options.sides)):
        return "an operation differs from its peer's"
    races(record, peers, options)
    if options.step_batch:
        torch.set_num_threads(1)
        step_share(record, options)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
