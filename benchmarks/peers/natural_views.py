"""Views of photographs at 224 pixels a second: ours for a batch, beside torchvision's transforms of
tensors (v2) and of Pillow's pictures, which take one picture at a time.

All start from stored pictures of 256×256 in memory, uint8, and end with floating pictures in
[0, 1]. The peers are called in the process, in turn with ours, so that no loader is in the window.
Settings are equal; every operation is compared with theirs in tests/datamodules/views.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from benchmarks.clock import Times
from benchmarks.command import Benchmark
from benchmarks.contest import contest
from benchmarks.made import pictures
from benchmarks.record import Record
from datamodules.views.image import (
    AutoAugment,
    ColorJitter,
    Erasing,
    Middle,
    Natural,
    RandAugment,
    ResizedCrop,
    ThreeAugment,
    TrivialAugment,
)
from foundation.randomness import Randomness

BICUBIC = InterpolationMode.BICUBIC
STORED = 256
SIDE = 224
FASTER = 2.0
WHY = (
    "a processor's fastest resampling takes one size at a time: ours is torchvision's kernel "
    "without its checks; sharpness, turns and enhancers are one pass over bytes in Pillow's C and "
    "several over floats in torch, where a batch saves nothing that large pictures would notice"
)
CLI = Benchmark("peers/natural_views", __doc__, ["torchvision", "pillow"], repeats=7)
CLI.add("batch", {"cpu": 32, "cuda": 256}, "pictures of a batch", least=1)


class Case(NamedTuple):
    """ours: a view. tensor, pillow: what the peers do behind the crop."""

    ours: Any
    theirs: Sequence[Any]
    erase: Sequence[Any] = ()


def cases() -> dict[str, Case]:
    crop = ResizedCrop(SIDE)
    jitter, erase = v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomErasing(0.25, (0.02, 0.33), (0.3, 3.3))
    three = [
        v2.RandomChoice(
            [
                v2.Grayscale(3),
                v2.RandomSolarize(128, p=1.0),
                v2.GaussianBlur(17, (0.1, 2.0)),
            ]
        ),
        v2.ColorJitter(0.3, 0.3, 0.3),
    ]
    found = {
        "crop and flip": Case(Natural(crop), []),
        "color jitter and erasing": Case(
            Natural(crop, color=ColorJitter(), erase=Erasing()), [jitter], [erase]
        ),
        "3-Augment": Case(Natural(crop, color=ThreeAugment()), three),
        "TrivialAugment": Case(Natural(crop, TrivialAugment()), [v2.TrivialAugmentWide()]),
        "AutoAugment": Case(Natural(crop, AutoAugment()), [v2.AutoAugment()]),
        "RandAugment": Case(Natural(crop, RandAugment()), [v2.RandAugment(2, 9)]),
    }
    return found


def one_by_one(source: Sequence[Any], transform: Callable[[Any], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.stack([transform(picture) for picture in source])


def peers(case: Case | None, pixels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """torchvision on tensors and on Pillow's pictures. None: the view of evaluation."""
    if case is None:
        first: list[Any] = [v2.CenterCrop(SIDE)]
        behind, last = [], []
    else:
        first = [
            v2.RandomResizedCrop(SIDE, interpolation=BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
        ]
        behind, last = list(case.theirs), list(case.erase)
    floating = v2.ToDtype(torch.float32, scale=True)
    shown = [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in pixels]
    on_tensors = v2.Compose([*first, *behind, floating, *last])
    on_pillow = v2.Compose([*first, *behind, v2.PILToTensor(), floating, *last])
    return {
        "torchvision, tensors": one_by_one(list(pixels), on_tensors),
        "torchvision, Pillow": one_by_one(shown, on_pillow),
    }


class Ours:
    """A view of the same batch, with other numbers in every call."""

    def __init__(self, view: Any, pixels: Tensor, device: str):
        self.view, self.pixels, self.device = view, pixels.to(device), device
        self.step = 0

    def __call__(self) -> Tensor:
        self.step += 1
        draw = Randomness(0, self.step, device=self.device).draw
        return self.view(self.pixels, lambda purpose: draw(purpose, len(self.pixels)))


def race(case: Case | None, pixels: Tensor, options: argparse.Namespace) -> dict[str, Times]:
    view = Middle(SIDE) if case is None else case.ours
    calls: dict[str, Callable[[], Any]] = {"Roux": Ours(view, pixels, options.device)}
    calls |= peers(case, pixels)
    found = contest(calls, options.repeats, warmup=1, device=options.device)
    for times in found.values():
        times.wall = [seconds / len(pixels) for seconds in times.wall]
    return found


def measure(record: Record, options: argparse.Namespace) -> str | None:
    pixels = pictures(options.batch, STORED)
    rows, low = [], {}
    for name, case in {"middle, for evaluation": None, **cases()}.items():
        found = race(case, pixels, options)
        ours = found.pop("Roux")
        row = [name, f"{1e3 * ours.of().median:.2f}"]
        ratios = []
        for times in found.values():
            ratio = ours.ratio(times)
            ratios.append(ratio.median)
            row += [f"{1e3 * times.of().median:.2f}", ratio.text(1, 1)]
        rows.append(row)
        low[name] = min(ratios)
    head = [
        "view",
        "Roux",
        "torchvision, tensors",
        "times ours",
        "torchvision, Pillow",
        "times ours",
    ]
    record.table("Milliseconds a view of 224×224 from 256×256", head, rows)
    text = f"at least {FASTER:g} times as fast as the faster of both, 224×224"
    measured = ", ".join(f"{name} {ratio:.1f}" for name, ratio in low.items())
    slow = [name for name, ratio in low.items() if ratio < FASTER]
    why = f"{', '.join(slow)}. {WHY}" if slow and options.device == "cpu" else ", ".join(slow)
    record.target(text, measured, not slow, why)
    return None


if __name__ == "__main__":
    CLI.start(measure)
