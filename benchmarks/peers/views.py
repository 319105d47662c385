"""Weak and strong views a second, ours batched on the device beside Pillow's picture by picture.

Every operation at every level is first compared with the peers' own on the same pictures, or the
script exits with status 1. TorchSSL's RandAugment is loaded from a copy of its repository
(--torchssl PATH); without one the same file of semilearn is taken where that is installed. With two
cores the peers have two worker processes and ours two threads; on one core the peers' loader is in
the process.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import transforms

from benchmarks.clock import Times
from benchmarks.command import Benchmark
from benchmarks.contest import contest
from benchmarks.made import pictures
from benchmarks.peers import view_peers as peer
from benchmarks.record import Record
from benchmarks.verdicts import Spread
from datamodules.views.image import GEOMETRIC, OPERATIONS, Strong, Weak
from datamodules.views.image.operations import apply_operations
from datamodules.views.image.randaugment import VARIANTS, values_of
from foundation.randomness import Randomness

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


class Peer(NamedTuple):
    """variant: ours of the same kind. operate: one operation of it; whole: it moves by whole
    pixels."""

    variant: str
    randaugment: Any
    operate: peer.Operate
    whole: bool


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
    """A pass over a set in memory: batches on the device, a weak and a strong view of each."""

    def __init__(self, pixels: Tensor, variant: Any, batch: int, device: str):
        self.pixels = pixels
        self.batch = batch
        self.device = device
        self.step = 0
        self.weak = Weak()
        self.strong = Strong(variant=variant)

    def __call__(self) -> None:
        for rows in torch.arange(len(self.pixels)).split(self.batch):
            self.views(rows)

    def views(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.step += 1
        pixels = self.pixels.index_select(0, rows).to(self.device, non_blocking=True)
        draw = Randomness(0, self.step, device=self.device).draw
        weak = self.weak(pixels, lambda purpose: draw(f"weak/{purpose}", len(rows)))
        return weak, self.strong(pixels, lambda purpose: draw(f"strong/{purpose}", len(rows)))


def one_race(
    side: int, cores: int, peers: dict[str, Peer], options: argparse.Namespace
) -> dict[str, Times]:
    """A pass of all contenders in turn on so many cores; times are seconds a view."""
    batch = options.batch if side < 100 else max(options.batch // 14, 1)
    pixels = pictures(ROOM * batch, side)
    channels_last = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    workers = 0 if cores == 1 else cores
    calls: dict[str, Callable[[], None]] = {}
    for variant in ("fixmatch", "usb", "nm"):
        calls[f"Roux, {variant}"] = Ours(pixels, variant, batch, options.device)
    for name, one in peers.items():
        source = peer.loader(peer.Pairs(channels_last, one.randaugment), batch, workers)
        calls[name] = peer.passes(source, options.device)
    torch.set_num_threads(cores)
    found = contest(calls, options.repeats, warmup=1, device=options.device)
    for times in found.values():
        times.wall = [seconds / (2 * len(pixels)) for seconds in times.wall]
    return found


def rows_of(side: int, found: dict[str, Times], peers: dict[str, Peer]) -> list[list[str]]:
    rows = []
    for name, times in found.items():
        rates = Spread([1 / seconds for seconds in times.wall])
        faster = ""
        if name in peers:
            faster = over_peer(found, name, peers).text(1, 1)
        rows.append([f"{side}×{side}", name, rates.text(1, 0), faster])
    return rows


def over_peer(found: dict[str, Times], name: str, peers: dict[str, Peer]) -> Spread:
    """How many times as fast ours of the same variant is."""
    return found[f"Roux, {peers[name].variant}"].ratio(found[name])


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    record.hide(options.torchssl)
    peers = find_peers(options)
    if not prove(record, peers, min(options.sides)):
        return "an operation differs from its peer's"
    low = {}
    for cores in options.cores:
        rows = []
        for side in options.sides:
            found = one_race(side, cores, peers, options)
            rows += rows_of(side, found, peers)
            if side == 32:
                for name in peers:
                    low[f"{name}, {cores} cores"] = over_peer(found, name, peers).median
        where = f"{cores} cores, {cores} workers or threads"
        where = "one core, the loader in the process" if cores == 1 else where
        head = ["pictures", "who", "views a second", "ours of the same variant, times as fast"]
        note = "Half of the views are weak, half are strong."
        record.table(f"Weak and strong views, {where}", head, rows, note)
    if low:
        text = "at least 5 times as fast on the CPU for 32×32"
        measured = ", ".join(f"{ratio:.1f} ({where})" for where, ratio in low.items())
        why = "of a GPU: see its table" if options.device == "cuda" else ""
        record.target(text, measured, min(low.values()) >= 5, why)
    return None


if __name__ == "__main__":
    CLI.start(measure)
