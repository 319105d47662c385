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
from collections.abc import Callable
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision import transforms

from benchmarks.contest import Times, contest
from benchmarks.made import pictures
from benchmarks.peers.view_peers import (
    PUBLISHED,
    Operate,
    Pairs,
    from_pil,
    load_torchssl,
    loader,
    passes,
    semilearn_folder,
    to_pil,
    torchssl_operation,
    torchvision_operation,
    torchvision_values,
)
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


# -- equal first -----------------------------------------------------------------------------------
def table(variant: str, name: str) -> list[float]:
    """The values of an operation at all levels, on both sides where it has two."""
    level = torch.tensor(list(LEVELS), dtype=torch.float64).repeat(2)
    codes = torch.full_like(level, OPERATIONS.index(name), dtype=torch.long)
    values = values_of(
        VARIANTS[variant].table(), codes, level, torch.arange(len(level)) >= len(LEVELS)
    )
    return sorted(set(values.tolist()))


def least_equal(
    variant: str, operate: Operate, side: int, whole: bool = False
) -> tuple[float, str]:
    """The least share of equal pixels of any operation at any level, and of which one. whole:
    translations by whole pixels only."""
    pixels, worst = pictures(6, side), (1.0, "all")
    for name in OPERATIONS:
        values = table(variant, name)
        for value in torchvision_values(name, values, side) if whole else values:
            codes = torch.full((len(pixels), 1), OPERATIONS.index(name))
            ours = apply_operations(
                pixels.clone(), codes, torch.full(codes.shape, value).double(), OPERATIONS, 0
            )
            theirs = torch.stack(
                [from_pil(operate(to_pil(picture), name, value)) for picture in pixels]
            )
            off = (ours.int() - theirs.int()).abs()
            if name not in GEOMETRIC and off.max() > 1:
                return 0.0, f"{name} {value:g}: {int(off.max())} grey levels apart"
            worst = min(worst, ((off == 0).float().mean().item(), f"{name} {value:g}"))
    return worst


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


def measure(
    side: int, cores: int, peers: dict[str, tuple[str, Any]], options: argparse.Namespace
) -> dict[str, Times]:
    """All contenders on so many cores, a pass each in turn."""
    batch = options.batch if side < 100 else max(options.batch // 14, 1)
    pixels = pictures(ROOM * batch, side)
    channels_last = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    before = on_cores(cores)
    try:
        calls: dict[str, Callable[[], Any]] = {
            f"Roux, {variant}": Ours(pixels, variant, batch, options.device)
            for variant in ("fixmatch", "usb", "nm")
        }
        for name, (_, randaugment) in peers.items():
            workers = 0 if cores == 1 else cores
            calls[name] = passes(
                loader(Pairs(channels_last, randaugment), batch, workers), options.device
            )
        found = contest(calls, options.repeats, warmup=1, device=options.device)
    finally:
        os.sched_setaffinity(0, before)
    for times in found.values():  # seconds a view
        times.wall = [seconds / (2 * len(pixels)) for seconds in times.wall]
    return found


def races(record: Record, peers: dict[str, tuple[str, Any]], options: argparse.Namespace) -> None:
    low = {}
    for cores in options.cores:
        rows = []
        for side in options.sides:
            found = measure(side, cores, peers, options)
            for name, times in found.items():
                variant = peers[name][0] if name in peers else ""
                ratio = found[f"Roux, {variant}"].ratio(times) if variant else None
                rates = sorted(1 / seconds for seconds in times.wall)
                text = f"{rates[len(rates) // 2]:.0f} ({rates[0]:.0f}..{rates[-1]:.0f})"
                rows.append([f"{side}×{side}", name, text, ratio.text(1, 1) if ratio else ""])
                record.figures[f"{side}/{cores}/{name}"] = {"views_a_second": rates}
                if ratio and side == 32:
                    low[cores, name] = ratio.row()["median"]
        where = (
            "one core, the loader in the process"
            if cores == 1
            else f"{cores} cores, {cores} workers or threads"
        )
        head = ["pictures", "who", "views a second", "ours of the same variant, times as fast"]
        record.table(
            f"Weak and strong views, {where}",
            head,
            rows,
            "Half of the views are weak, half are strong.",
        )
    if low:
        measured = ", ".join(
            f"{ratio:.1f} ({name}, {cores} cores)" for (cores, name), ratio in low.items()
        )
        why = "of a GPU: see its table" if options.device == "cuda" else ""
        record.target(
            "at least 5 times as fast on the CPU for 32×32", measured, min(low.values()) >= 5, why
        )


# -- beside the network ----------------------------------------------------------------------------
def step_share(record: Record, options: argparse.Namespace) -> None:
    """The views of a FixMatch batch beside forward and backward of a WRN-28-2 on them."""
    labeled, device = options.step_batch, options.device
    info = DataInfo("image", {"label": 10}, (3, 32, 32))
    network: nn.Module = build_network(info, {"label": 10}, name="wrn_28_2").to(device)
    unlabeled = 7 * labeled
    ours, pixels = (
        Ours(pictures(unlabeled, 32), "fixmatch", unlabeled, device),
        pictures(labeled, 32, 1),
    )
    x = torch.rand(labeled + 2 * unlabeled, 3, 32, 32, device=device)
    y = torch.randint(0, 10, (len(x),), device=device)
    rows = torch.arange(unlabeled)

    def views() -> None:
        draw = Randomness(0, 0, device=device).draw
        ours.weak(pixels.to(device), lambda purpose: draw(purpose, labeled))
        ours.views(rows)

    def step() -> None:
        cross_entropy(network(Embedded(x)).logits["label"], y).backward()
        network.zero_grad()

    found = contest({"views": views, "step": step}, options.repeats, warmup=1, device=device)
    share = found["step"].ratio(found["views"])
    rows_ = [[name, found[name].of().text(1e3, 1)] for name in found] + [
        ["views / step, %", share.text(100, 2)]
    ]
    title = (
        f"Views beside forward and backward of a WRN-28-2, {labeled} + 2 · {unlabeled} pictures of "
        "32×32"
    )
    record.table(title, ["ms", options.device], rows_)
    text = "on a GPU views cost under 10 % of a WRN-28-2 step"
    percent = share.row()["median"] * 100
    met, why = (
        (percent < 10, "")
        if device == "cuda"
        else (None, "measured on a CPU, where the network costs the most")
    )
    record.target(text, f"{percent:.1f} %", met, why)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--torchssl", type=Path, help=f"folder of TorchSSL's repository, or its {PUBLISHED}"
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 224], help="of the pictures")
    parser.add_argument(
        "--batch", type=int, default=448, help="pictures of 32×32 in a batch, 1/14 of larger ones"
    )
    parser.add_argument(
        "--cores", type=int, nargs="+", default=[1, 2], help="races on so many cores"
    )
    parser.add_argument(
        "--step-batch",
        type=int,
        help="labeled pictures of a step (default 64, on the CPU 4), 0: none",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.batch < 1 or min(options.sides) < 8 or min(options.cores) < 1:
        parser.error("--repeats, --batch and --cores are at least 1, --sides at least 8")
    if options.step_batch is None:
        options.step_batch = 64 if options.device == "cuda" else 4
    available = len(os.sched_getaffinity(0))
    options.cores = sorted({count for count in options.cores if count <= available})
    return options


def find_peers(
    options: argparse.Namespace,
) -> tuple[dict[str, tuple[str, Any]], dict[str, tuple[Operate, bool]]]:
    """Name -> our variant and its RandAugment; name -> one operation of it, and whether it moves by
    whole pixels."""
    peers: dict[str, tuple[str, Any]] = {
        "torchvision / Pillow": ("nm", transforms.RandAugment(2, 9))
    }
    operations: dict[str, tuple[Operate, bool]] = {
        "torchvision / Pillow": (torchvision_operation, True)
    }
    path, name = (
        options.torchssl or semilearn_folder(),
        "TorchSSL" if options.torchssl else "semilearn",
    )
    if path is not None:
        module = load_torchssl(path)
        peers[name] = ("usb", module.RandAugment(3, 5))
        operations[name] = (torchssl_operation(module), False)
    return peers, operations


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where an operation differs."""
    options = arguments(argv)
    record = Record(
        "peers/views", __doc__ or "", options.device, ["torchvision", "pillow", "semilearn"]
    )
    peers, operations = find_peers(options)
    rows, equal = [], True
    for name, (operate, whole) in operations.items():
        share, which = least_equal(peers[name][0], operate, min(options.sides), whole)
        equal &= share >= EQUAL
        rows.append([name, peers[name][0], f"{share * 100:.3f} %", which if share < 1 else ""])
    note = (
        "Photometric operations are at most one grey level apart. TorchSSL is left out without "
        "--torchssl."
    )
    record.table(
        "Pixels equal, every operation at every level",
        ["", "variant", "at least", "of"],
        rows,
        note,
    )
    if not equal:
        print("an operation differs from its peer's", file=sys.stderr)
        return 1
    races(record, peers, options)
    if options.step_batch:
        torch.set_num_threads(1)
        step_share(record, options)
    record.write(options.json, options.torchssl)
    return 0


if __name__ == "__main__":
    sys.exit(main())
