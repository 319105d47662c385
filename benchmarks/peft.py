"""A whole training step of a frozen network with a delta beside the peft library's: python
benchmarks/peft.py --help

ViT-B/16 and a BERT of base size with random weights; forward, backward and AdamW. Where the library
has no such method (adapters, prefixes in a ViT) the least code that does it by hand stands in its
place. First both sides, with equal weights in evaluation mode, must give the same logits and the
same gradients to 1e-5.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# the folder of this script goes last: first, as it stands when the script is run, `import peft`
# would find the script
sys.path.sort(key=lambda place: Path(place).resolve() == Path(__file__).resolve().parent)

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel

from benchmarks import peft_peers as peers
from benchmarks.arguments import filled, parser
from benchmarks.contest import Call, Times, contest, peak_bytes
from benchmarks.judging import judged
from benchmarks.record import Record, installed, mebibytes
from benchmarks.timing import Spread
from methods.peft.adapter import Adapter
from methods.peft.dora import DoRA
from methods.peft.lora import LoRA
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.surgeon import PEFTMethod
from recipes.networks.build import build_network
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork
from recipes.step import Embedded

TOLERANCE = 1e-5
CLASSES = 10
HAND, LIBRARY = "by hand", "peft"
JOINED = (
    "B of both parts, joined with rows of zeros, is made anew in every step; there it is a "
    "parameter"
)
TABLE = "the rows of all layers are one table, and every layer's gradient has its size"
SIZES = {
    "cpu": {"layers": 2, "batch": 4, "length": 64, "side": 224, "width": 768},
    "cuda": {"layers": 12, "batch": 64, "length": 128, "side": 224, "width": 768},
}


@dataclass(frozen=True)
class Row:
    """One method on one network, and who does the same. memory: why ours takes more, where it
    does."""

    name: str
    key: str
    method: Callable[[], PEFTMethod]
    peer: peers.Peer
    by: str = LIBRARY
    memory: str = ""


VIT = (
    Row("LoRA, one pair a fused layer", "lora", lambda: LoRA(qkv="shared"), peers.lora),
    Row("LoRA, queries and values apart", "lora", LoRA, peers.lora, memory=JOINED),
    Row("DoRA", "dora", lambda: DoRA(qkv="shared"), peers.dora),
    Row("prefix", "prefix_tuning", PrefixTuning, peers.widened, HAND, memory=TABLE),
    Row("adapters, houlsby", "adapter", Adapter, peers.houlsby, HAND),
    Row("adapters, pfeiffer", "adapter", lambda: Adapter(variant="pfeiffer"), peers.pfeiffer, HAND),
)
BERT = (
    Row("LoRA", "lora", LoRA, peers.lora),
    Row("DoRA", "dora", DoRA, peers.dora),
    Row("prefix", "prefix_tuning", PrefixTuning, peers.prefix),
    Row("adapters, houlsby", "adapter", Adapter, peers.houlsby, HAND),
    Row("adapters, pfeiffer", "adapter", lambda: Adapter(variant="pfeiffer"), peers.pfeiffer, HAND),
)
NETWORKS = {"ViT-B/16": VIT, "BERT": BERT}


# -- networks and data -----------------------------------------------------------------------------
def network(kind: str, options: argparse.Namespace) -> Network:
    """The same random weights at every call."""
    torch.manual_seed(0)
    heads, width = options.width // 64, options.width
    made: Network
    if kind == "BERT":
        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=options.layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=max(512, options.length),
        )
        encoder = BertModel(config, add_pooling_layer=False)
        encoder.set_attn_implementation("roux_sdpa")
        made = TextNetwork(encoder, {"label": CLASSES})
    else:
        size = {"depth": options.layers, "embed_dim": width, "num_heads": heads}
        info = SimpleNamespace(kind="image", shape=(3, options.side, options.side))
        made = build_network(info, {"label": CLASSES}, name="vit_base_patch16_224", options=size)
    return made.to(options.device).train()


@dataclass
class Batch:
    """x: pixels, or token ids with a mask, every second text a quarter shorter."""

    x: Tensor
    mask: Tensor | None
    y: Tensor

    @classmethod
    def of(cls, kind: str, options: argparse.Namespace) -> "Batch":
        source = torch.Generator().manual_seed(1)
        y = torch.randint(CLASSES, (options.batch,), generator=source).to(options.device)
        if kind != "BERT":
            x = torch.rand(options.batch, 3, options.side, options.side, generator=source)
            return cls(x.to(options.device), None, y)
        ids = torch.randint(1, 30000, (options.batch, options.length), generator=source)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1::2, options.length - options.length // 4 :] = False
        return cls(ids.to(options.device), mask.to(options.device), y)


class Contender:
    """A network with its delta, and its optimizer. words: the table of embeddings, None for
    pictures."""

    def __init__(self, net: Network, words: Any, batch: Batch, bf16: bool):
        self.net, self.words, self.batch, self.bf16 = net, words, batch, bf16
        self.trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def logits(self) -> Tensor:
        x, mask = self.batch.x, self.batch.mask
        embedded = Embedded(x) if self.words is None else Embedded(self.words(x), mask)
        return self.net(embedded).logits["label"]

    def step(self) -> None:
        with torch.autocast(self.batch.x.device.type, torch.bfloat16, enabled=self.bf16):
            loss = cross_entropy(self.logits(), self.batch.y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def both(
    kind: str, row: Row, options: argparse.Namespace
) -> tuple[Contender, Contender, peers.Pairs]:
    """Ours and theirs with equal weights, and which of theirs belong to which of ours."""
    batch, nets, words = Batch.of(kind, options), [], []
    for _ in range(2):
        nets.append(network(kind, options))
        backbone: Any = nets[-1].backbone
        words.append(backbone.get_input_embeddings() if kind == "BERT" else None)
    ours, theirs = nets
    method = row.method()
    method.key = row.key
    method.surgery(ours)
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in ours.deltas[
            row.key
        ].parameters():  # what starts at zero would hide a fault
            parameter += (0.02 * torch.randn(parameter.shape, generator=source)).to(
                parameter.device
            )
    pairs = row.peer(ours, theirs)
    pairs += list(zip(ours.heads.parameters(), theirs.heads.parameters(), strict=True))
    sides = [
        Contender(n.to(options.device), w, batch, options.bf16)
        for n, w in zip(nets, words, strict=True)
    ]
    return sides[0], sides[1], pairs


# -- proof -----------------------------------------------------------------------------------------
def difference(ours: Contender, theirs: Contender, pairs: peers.Pairs) -> float:
    """The largest difference of logits and of gradients, each in units of the largest there is
    (logits: at least 1)."""
    found = []
    sides = []
    for side, chosen in ((ours, [a for a, _ in pairs]), (theirs, [b for _, b in pairs])):
        side.net.eval()
        logits = side.logits()
        sides.append(
            (logits.detach(), torch.autograd.grad(cross_entropy(logits, side.batch.y), chosen))
        )
        side.net.train()
    (mine, slopes), (yours, their_slopes) = sides
    found.append(float((mine - yours).abs().max() / mine.abs().max().clamp_min(1.0)))
    for a, b in zip(slopes, their_slopes, strict=True):
        found.append(float((a - b.view_as(a)).abs().max() / a.abs().max().clamp_min(1e-6)))
    return max(found)


# -- measurement -----------------------------------------------------------------------------------
def measure(kind: str, options: argparse.Namespace, record: Record, chosen: list[str]) -> bool:
    """One network; False where something differs, and then nothing more is timed."""
    by: Any = "wall" if options.device == "cuda" else "cpu"
    table: list[list[str]] = []
    found: list[tuple[Row, Spread, float]] = []
    for row in NETWORKS[kind]:
        if row.name not in chosen or (row.by == LIBRARY and installed("peft") == "not installed"):
            continue
        ours, theirs, pairs = both(kind, row, options)
        apart = difference(ours, theirs, pairs)
        print(f"{kind}, {row.name}: logits and gradients differ by {apart:.1e} at most", flush=True)
        if not apart <= TOLERANCE:
            print(f"more than {TOLERANCE}: nothing is timed", file=sys.stderr)
            return False
        calls: dict[str, Call] = {"Roux": ours.step, row.by: theirs.step}
        times = contest(calls, options.repeats, options.warmup, device=options.device)
        peaks = {who: peak_bytes(call, options.device) for who, call in calls.items()}
        table.append(line(row, times, peaks, by))
        found.append((row, times[row.by].ratio(times["Roux"], by), peaks["Roux"] / peaks[row.by]))
        figures = {who: spent.of(by).row() | {"peak": peaks[who]} for who, spent in times.items()}
        record.figures[f"{kind}, {row.name}"] = figures | {"difference": apart}
    head = [
        "method",
        "beside",
        "ours, ms",
        "theirs, ms",
        "ours over theirs",
        "ours, MiB",
        "theirs, MiB",
    ]
    size = f"{options.side}×{options.side} pixels" if kind != "BERT" else f"{options.length} tokens"
    note = f"{options.layers} layers of width {options.width}, {options.batch} samples of {size}"
    record.table(
        f"{kind}: one training step",
        head,
        table,
        f"{note}{', bf16' if options.bf16 else ', float32'}.",
    )
    judge(kind, found, record)
    return True


def line(row: Row, times: dict[str, Times], peaks: dict[str, int], by: Any) -> list[str]:
    mine, yours = times["Roux"], times[row.by]
    spent = [mine.of(by).text(1e3, 1), yours.of(by).text(1e3, 1), yours.ratio(mine, by).text(1, 3)]
    return [row.name, row.by, *spent, mebibytes(peaks["Roux"]), mebibytes(peaks[row.by])]


def judge(kind: str, found: list[tuple[Row, Spread, float]], record: Record) -> None:
    """Ours over theirs is 1.000 or less in every row: medians of the time, and peaks."""
    if not found:
        return
    judged(
        record,
        f"{kind}: time at most theirs, ours over theirs",
        {row.name: spread for row, spread, _ in found},
    )
    heavy = [
        f"{row.name}: {row.memory or 'not profiled'}"
        for row, _, peak in found
        if round(peak, 3) > 1.0
    ]
    said = ", ".join(f"{row.name} {peak:.3f}" for row, _, peak in found)
    record.target(
        f"{kind}: peak memory at most theirs, ours over theirs", said, not heavy, "; ".join(heavy)
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, repeats=15, warmup=1)
    made.add_argument("--network", choices=[*NETWORKS, "both"], default="both")
    names = list(dict.fromkeys(row.name for rows in NETWORKS.values() for row in rows))
    made.add_argument("--method", choices=names, nargs="+", default=names, help="all by default")
    made.add_argument("--layers", type=int, help="2 on the CPU, 12 on a GPU")
    made.add_argument("--width", type=int, help="768, a multiple of 64")
    made.add_argument("--batch", type=int, help="samples: 4 on the CPU, 64 on a GPU")
    made.add_argument("--length", type=int, help="tokens of a text: 64 on the CPU, 128 on a GPU")
    made.add_argument("--side", type=int, help="pixels: 224, a multiple of 16")
    made.add_argument(
        "--bf16", action="store_true", help="steps under autocast; the proof is in float32"
    )
    options = filled(made.parse_args(argv), SIZES)
    counts = (options.layers, options.batch, options.length, options.repeats)
    if min(counts) < 1 or options.width % 64 or options.side % 16:
        made.error("sizes and --repeats are positive, --width a multiple of 64, --side one of 16")
    return options


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where outputs differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    record = Record("peft", __doc__, options.device, peers=("peft", "timm", "transformers"))
    for kind in NETWORKS if options.network == "both" else [options.network]:
        if not measure(kind, options, record, options.method):
            return 1
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
