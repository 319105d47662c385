"""A whole training step of a frozen network with a delta beside the peft library's.

ViT-B/16 and a BERT of base size with random weights; forward, backward and AdamW. Adapters, and
prefixes in a ViT, are left out: the library has none. First both sides, with equal weights in
evaluation mode, must give the same logits and the same gradients to 1e-5.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel

from benchmarks.clock import By, Times
from benchmarks.command import Benchmark
from benchmarks.contest import measured
from benchmarks.machine import installed
from benchmarks.peers import peft_peers as peers
from benchmarks.record import Record
from benchmarks.table import mebibytes
from benchmarks.verdicts import judged
from methods.peft.adalora import AdaLoRA
from methods.peft.dora import DoRA
from methods.peft.glora import GLoRA
from methods.peft.lora import LoRA
from methods.peft.p_tuning import PTuning
from methods.peft.p_tuning_v2 import PTuningV2
from methods.peft.prefix_tuning import PrefixTuning
from methods.peft.surgeon import PEFTMethod
from recipes.networks.build import build_network
from recipes.networks.network import Network
from recipes.networks.text import TextNetwork
from recipes.step import Embedded

TOLERANCE = 1e-5
CLASSES = 10
LIBRARY = "peft"
JOINED = (
    "B of both parts, joined with rows of zeros, is made anew in every step; there it is a "
    "parameter"
)


@dataclass(frozen=True)
class Row:
    """One method on one network, and the library's. memory: why ours takes more, where it does."""

    name: str
    key: str
    method: Callable[[], PEFTMethod]
    peer: peers.Peer
    memory: str = ""


def p_tuning() -> PEFTMethod:
    return PTuning(placement="before", positions="shift")


def p_tuning_v2() -> PEFTMethod:
    """Without dropout of the rows, which the library has not."""
    return PTuningV2(dropout=0.0, positions="shift")


VIT = (
    Row("LoRA, one pair a fused layer", "lora", lambda: LoRA(qkv="shared"), peers.lora),
    Row("LoRA, queries and values apart", "lora", LoRA, peers.lora, memory=JOINED),
    Row("DoRA", "dora", lambda: DoRA(qkv="shared"), peers.dora),
    Row("AdaLoRA", "adalora", lambda: AdaLoRA(qkv="shared"), peers.adalora),
    Row("GLoRA", "glora", lambda: GLoRA(qkv="shared"), peers.glora),
)
BERT = (
    Row("LoRA", "lora", LoRA, peers.lora),
    Row("DoRA", "dora", DoRA, peers.dora),
    Row("AdaLoRA", "adalora", AdaLoRA, peers.adalora),
    Row("GLoRA", "glora", GLoRA, peers.glora),
    Row("prefix", "prefix_tuning", PrefixTuning, peers.prefix),
    Row("P-tuning", "p_tuning", p_tuning, peers.encoded_prompt),
    Row("P-tuning v2", "p_tuning_v2", p_tuning_v2, peers.shifted_prefix),
)
NETWORKS = {"ViT-B/16": VIT, "BERT": BERT}
NAMES = list(dict.fromkeys(row.name for row in (*VIT, *BERT)))
PACKAGES = (LIBRARY, "timm", "transformers")
CLI = Benchmark("peers/peft", __doc__, PACKAGES, repeats=15, warmup=1, least=0.05)
CLI.add("networks", list(NETWORKS), "both by default", choices=list(NETWORKS))
CLI.add("methods", NAMES, "all by default", choices=NAMES)
CLI.add("layers", {"cpu": 2, "cuda": 12}, "blocks of a network", least=1)
CLI.add("width", 768, "of a network, a multiple of 64", least=64)
CLI.add("batch", {"cpu": 4, "cuda": 64}, "samples", least=1)
CLI.add("length", {"cpu": 64, "cuda": 128}, "tokens of a text", least=4)
CLI.add("side", 224, "pixels, a multiple of 16", least=16)
CLI.rule(lambda options: options.width % 64 == 0, "--width is a multiple of 64")
CLI.rule(lambda options: options.side % 16 == 0, "--side is a multiple of 16")


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

    def __init__(self, net: Network, words: Any, batch: Batch):
        self.net = net
        self.words = words
        self.batch = batch
        self.trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def logits(self) -> Tensor:
        x, mask = self.batch.x, self.batch.mask
        embedded = Embedded(x) if self.words is None else Embedded(self.words(x), mask)
        return self.net(embedded).logits["label"]

    def step(self) -> None:
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
    with torch.no_grad():  # what starts at zero would hide a fault
        for parameter in ours.deltas[row.key].parameters():
            noise = 0.02 * torch.randn(parameter.shape, generator=source)
            parameter += noise.to(parameter.device)
    pairs = row.peer(ours, theirs)
    pairs += list(zip(ours.heads.parameters(), theirs.heads.parameters(), strict=True))
    sides = []
    for net, table in zip(nets, words, strict=True):
        sides.append(Contender(net.to(options.device), table, batch))
    return sides[0], sides[1], pairs


# -- proof -----------------------------------------------------------------------------------------
def difference(ours: Contender, theirs: Contender, pairs: peers.Pairs) -> float:
    """The largest difference of logits and of gradients, each in units of the largest there is
    (logits: at least 1)."""
    sides = []
    for side, chosen in ((ours, [a for a, _ in pairs]), (theirs, [b for _, b in pairs])):
        side.net.eval()
        logits = side.logits()
        gradients = torch.autograd.grad(cross_entropy(logits, side.batch.y), chosen)
        sides.append((logits.detach(), gradients))
        side.net.train()
    (mine, my_gradients), (yours, your_gradients) = sides
    found = [float((mine - yours).abs().max() / mine.abs().max().clamp_min(1.0))]
    for a, b in zip(my_gradients, your_gradients, strict=True):
        found.append(float((a - b.view_as(a)).abs().max() / a.abs().max().clamp_min(1e-6)))
    return max(found)


# -- measurement -----------------------------------------------------------------------------------
def one_network(kind: str, options: argparse.Namespace, record: Record) -> str | None:
    """What differs, and then nothing more is timed."""
    found: list[tuple[Row, Times, Times]] = []
    for row in NETWORKS[kind]:
        if row.name not in options.methods:
            continue
        ours, theirs, pairs = both(kind, row, options)
        off = difference(ours, theirs, pairs)
        print(f"{kind}, {row.name}: logits and gradients differ by {off:.1e} at most", flush=True)
        if not off <= TOLERANCE:
            return f"more than {TOLERANCE}: nothing is timed"
        times = measured({"Roux": ours.step, LIBRARY: theirs.step}, options)
        found.append((row, times["Roux"], times[LIBRARY]))
    head = ["method", "ours, ms", "theirs, ms", "ours over theirs", "ours, MiB", "theirs, MiB"]
    size = f"{options.side}×{options.side} pixels" if kind != "BERT" else f"{options.length} tokens"
    network_size = f"{options.layers} layers of width {options.width}"
    note = f"{network_size}, {options.batch} samples of {size}, float32."
    rows = [line(*one, options.by) for one in found]
    record.table(f"{kind}: one training step", head, rows, note)
    judge(kind, found, record, options.by)
    return None


def line(row: Row, mine: Times, yours: Times, by: By) -> list[str]:
    spent = [mine.of(by).text(1e3, 1), yours.of(by).text(1e3, 1), yours.ratio(mine, by).text(1, 3)]
    return [row.name, *spent, mebibytes(mine.peak), mebibytes(yours.peak)]


def judge(kind: str, found: list[tuple[Row, Times, Times]], record: Record, by: By) -> None:
    """Ours over theirs is 1.000 or less in every row: medians of the time, and peaks."""
    if not found:
        return
    ratios = {row.name: yours.ratio(mine, by) for row, mine, yours in found}
    judged(record, f"{kind}: time at most theirs, ours over theirs", ratios)
    peaks = {row.name: mine.peak / yours.peak for row, mine, yours in found}
    why = {row.name: row.memory or "not profiled" for row, _, _ in found}
    heavy = [f"{name}: {why[name]}" for name, peak in peaks.items() if round(peak, 3) > 1.0]
    shares = ", ".join(f"{name} {peak:.3f}" for name, peak in peaks.items())
    text = f"{kind}: peak memory at most theirs, ours over theirs"
    record.target(text, shares, not heavy, "; ".join(heavy))


def measure(record: Record, options: argparse.Namespace) -> str | None:
    if installed(LIBRARY) == "not installed":
        return "the peft library is not installed"
    for kind in options.networks:
        fault = one_network(kind, options, record)
        if fault is not None:
            return fault
    return None


if __name__ == "__main__":
    CLI.start(measure)
