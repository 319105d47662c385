"""The whole FixMatch step on a WRN-28-2, ours beside semilearn's own, beside a bare loop, beside
its arithmetic.

Three steps first: ours must be bit-equal to the bare loop, and semilearn's train_step, given the
bare loop's weights and views, must return its loss within 1e-5 at the first step and 1e-3 at the
third, or the script exits with status 1. Then all run in one process, one step each in turn, on
made pictures of 32×32 in memory. semilearn runs on our network: its own has other blocks (in two of
them the first normalisation is computed and not used). Its views come through Pillow in its loader,
or, in a row of its own, lie ready.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.clock import Clock, Spread, race
from benchmarks.ours import fit, prepared
from benchmarks.peers import semilearn_peer as peer
from benchmarks.record import Record
from benchmarks.speed.bare import BareFixMatch
from recipes.step import Embedded

PROOF, FIRST, LATER = 3, 1e-5, 1e-3
RATIO = 7
GIVEN, LOADED, FLOOR, APART = (
    "semilearn, views given",
    "semilearn, its loader",
    "forward, backward",
    "apart",
)
Run = Callable[[Clock], list[Tensor]]


class Bench:
    """All variants, each from the same weights."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.device, self.folder, self.runs = options, options.device, folder, 0
        self.data = (
            *("data=cifar10", "data.source._target_=benchmarks.made.Made", "~data.source.test"),
            *(
                f"network.name={options.network}",
                f"data.batch_size={options.batch}",
                f"data.unlabeled_ratio={RATIO}",
            ),
            *("data.eval_batch_size=8", "data.val_fraction=0.005"),
        )

    def _folder(self) -> Path:
        self.runs += 1
        (self.folder / str(self.runs)).mkdir()
        return self.folder / str(self.runs)

    def ours(self, clock: Clock, extra: tuple[str, ...] = ()) -> list[Tensor]:
        folder = self._folder()
        return fit(
            prepared(clock.total, folder, self.device, ("recipe=fixmatch", *self.data, *extra)),
            folder,
            clock,
        )

    def made_bare(self, total: int) -> BareFixMatch:
        folder = self._folder()
        return BareFixMatch(
            prepared(total, folder, self.device, ("recipe=fixmatch", *self.data)),
            folder,
            self.device,
        )

    def bare(self, clock: Clock) -> list[Tensor]:
        loop = self.made_bare(clock.total)
        loop.run(clock)
        return loop.losses

    # -- semilearn ---------------------------------------------------------------------------------
    def semilearn(self, bare: BareFixMatch, total: int) -> Any:
        (labeled, size), (unlabeled, _) = peer.parts_of(bare.assembly)
        return peer.algorithm(
            bare.network,  # type: ignore[arg-type]
            labeled,
            unlabeled,
            total=total,
            batch=size,
            ratio=RATIO,
            rate=bare.rate,
            device=self.device,
            decay=bare.optimizer.param_groups[0]["weight_decay"],
            workers=self.options.workers,
            amp=self.options.amp,
        )

    @staticmethod
    def batch(bare: BareFixMatch, step: int) -> dict[str, Tensor]:
        labeled, labels, weak, strong = bare.views(bare.to_device(bare.batch(step)), step)
        return {"x_lb": labeled, "y_lb": labels, "x_ulb_w": weak, "x_ulb_s": strong}

    def semilearn_given(self, clock: Clock) -> list[Tensor]:
        bare = self.made_bare(clock.total)
        return self._steps(bare, clock, lambda made: repeat(self.batch(bare, 0)))

    def semilearn_loaded(self, clock: Clock) -> list[Tensor]:
        return self._steps(self.made_bare(clock.total), clock, peer.loaded)

    def _steps(
        self, bare: BareFixMatch, clock: Clock, batches: Callable[[Any], Any]
    ) -> list[Tensor]:
        made = self.semilearn(bare, clock.total)
        source, losses = iter(batches(made)), []
        for _ in range(clock.total):
            clock.mark()
            losses.append(peer.step(made, next(source)))
        return losses

    # -- arithmetic --------------------------------------------------------------------------------
    def arithmetic(self, clock: Clock, together: bool) -> list[Tensor]:
        """Forward and backward alone, no views, loss or optimizer; apart: the weak views in a
        forward of their own that keeps no graph, which batch normalisation turns into another
        method."""
        bare = self.made_bare(clock.total)
        found = self.batch(bare, 0)
        weak = found["x_ulb_w"]
        taught = torch.cat([found["x_lb"], *([weak] if together else []), found["x_ulb_s"]])
        labels = torch.zeros(len(taught), dtype=torch.long, device=self.device)
        for _ in range(clock.total):
            clock.mark()
            if not together:
                with torch.no_grad():
                    bare.network(Embedded(weak))
            cross_entropy(bare.network(Embedded(taught)).logits["label"], labels).backward()
            bare.network.zero_grad()
        return []

    @property
    def variants(self) -> dict[str, Run]:
        found: dict[str, Run] = {"Roux": self.ours, "bare loop": self.bare}
        for override in self.options.also:
            found[f"Roux, {override}"] = partial(self.ours, extra=tuple(override.split(",")))
        if peer.load() is not None:
            found |= {GIVEN: self.semilearn_given, LOADED: self.semilearn_loaded}
        found[FLOOR], found[APART] = (
            partial(self.arithmetic, together=True),
            partial(self.arithmetic, together=False),
        )
        return found


def prove(bench: Bench) -> tuple[str | None, list[str]]:
    """What differs, None where nothing does; and a line on each proof."""
    ours, bare = bench.ours(Clock(0, PROOF - 1)), bench.bare(Clock(0, PROOF - 1))
    if not all(torch.equal(a, b) for a, b in zip(ours, bare, strict=True)):
        return f"ours {ours} and the bare loop {bare} differ", []
    lines = [f"ours and the bare loop: losses of {PROOF} steps are bit-equal"]
    if peer.load() is None:
        return None, [*lines, "semilearn is not installed"]
    loop = bench.made_bare(PROOF)
    made = bench.semilearn(loop, PROOF)
    theirs = [peer.step(made, bench.batch(loop, step)) for step in range(PROOF)]
    apart = [abs(a.item() - b.item()) for a, b in zip(bare, theirs, strict=True)]
    text = ", ".join(f"{difference:.1e}" for difference in apart)
    limit = 1.0 if bench.options.amp else LATER
    if apart[0] > (limit if bench.options.amp else FIRST) or max(apart) > limit:
        return f"semilearn's losses differ from the bare loop's by {text}", lines
    return None, [
        *lines,
        f"semilearn's train_step on the same weights and views: losses differ by {text}",
    ]


def measure(record: Record, bench: Bench, options: argparse.Namespace) -> dict[str, Clock]:
    clocks = [
        Clock(options.warmup, options.steps, block=1, device=options.device) for _ in bench.variants
    ]
    race(list(bench.variants.values()), clocks, options.threads)
    found = dict(zip(bench.variants, clocks, strict=True))
    images, mine = options.batch * (1 + 2 * RATIO), found["Roux"].blocks
    rows = []
    for name, clock in found.items():
        seconds = Spread([block["wall"] for block in clock.blocks])
        ratio = Spread([b["wall"] / a["wall"] for a, b in zip(mine, clock.blocks, strict=True)])
        rate = f"{images / seconds.row()['median']:.1f}"
        rows.append([name, seconds.text(1e3, 0), rate, ratio.text(1, 2)])
        record.figures[name] = {"seconds": seconds.values, "over_ours": ratio.row()}
    title = (
        f"A step on {options.network}, {options.batch} + 2 · {options.batch * RATIO} pictures of "
        "32×32"
    )
    note = (
        f"`{FLOOR}` is the network alone, one forward over all three inputs as the method asks "
        f"for; `{APART}` the same "
        "with the weak views forwarded without a graph, which is another method where "
        "normalisation is by batch."
    )
    record.table(title, ["who", "ms a step", "pictures a second", "over ours"], rows, note)
    return found


def judge(record: Record, bench: Bench, options: argparse.Namespace) -> None:
    over = {name: figures["over_ours"]["median"] for name, figures in record.figures.items()}
    best = min((name for name in over if name.startswith("Roux")), key=over.__getitem__)
    if LOADED in over:
        ratios = f"{over[LOADED] / over[best]:.2f} ({best}), {over[LOADED]:.2f} (Roux)"
        met, why = (
            (over[LOADED] / over[best] >= 3, "")
            if options.device == "cuda"
            else (None, "measured on a CPU")
        )
        record.target("on a GPU at least 3 times as fast as semilearn", ratios, met, why)
    floor = f"{1 / over[FLOOR]:.3f} times forward and backward"
    record.target("the step over its arithmetic floor", floor, None, "no bound was set")
    share = f"{over[APART] / over[FLOOR]:.2f} of forward and backward"
    why = (
        "where a network normalises by the batch, the weak views' activations are part of "
        "everybody's moments and take "
        "part in the backward; without such layers the engine keeps no graph of them"
    )
    measured = f"not with batch normalisation; apart it would be {share}"
    record.target("the weak branch without gradient", measured, None, why)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch",
        type=int,
        help="labeled pictures (default 64, on the CPU 4), 7 times that without",
    )
    parser.add_argument("--network", default="wrn_28_2")
    parser.add_argument("--steps", type=int, default=5, help="in the window of each")
    parser.add_argument("--warmup", type=int, default=1, help="steps before it")
    parser.add_argument("--threads", type=int, default=1, help="of torch's operations")
    parser.add_argument("--workers", type=int, default=0, help="processes of semilearn's loader")
    parser.add_argument("--amp", action="store_true", help="semilearn in mixed precision")
    parser.add_argument(
        "--also",
        nargs="*",
        default=["trainer.precision=bf16-mixed"],
        metavar="OVERRIDES",
        help="ours once more with",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    options.batch = (
        (64 if options.device == "cuda" else 4) if options.batch is None else options.batch
    )
    if (
        min(options.batch, options.steps, options.threads) < 1
        or min(options.warmup, options.workers) < 0
    ):
        parser.error(
            "--batch, --steps and --threads are at least 1, --warmup and --workers at least 0"
        )
    return options


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where losses differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    record = Record("peers/fixmatch", __doc__ or "", options.device, ["semilearn", "torchvision"])
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        difference, lines = prove(bench)
        if difference is not None:
            print(difference, file=sys.stderr)
            return 1
        record.table("Equal first", ["what"], [[line] for line in lines])
        measure(record, bench, options)
    judge(record, bench, options)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
