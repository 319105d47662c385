"""What `step_overhead` runs: recipes with their hand-written loops, and regimes that say what a
step waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed.bare import Bare, BareFixMatch
from benchmarks.speed.bare_methods import BareFive, BareMGDA, BareTasks

VIT = ("network.name=vit_tiny_patch16_224", "network.input_size=8")


@dataclass(frozen=True)
class Case:
    """A recipe and the loop that does the same by hand."""

    bare: type[Bare]
    overrides: tuple[str, ...]
    network: str = "cnn"
    files: bool = True  # whether it can be asked of picture files, which have one task


CASES = {
    "supervised": Case(Bare, ("recipe=supervised",)),
    "fixmatch": Case(BareFixMatch, ("recipe=fixmatch",)),
    "lora": Case(Bare, ("recipe=supervised", "peft=lora", *VIT), "vit", files=False),
    "multi_task": Case(BareTasks, ("recipe=multi_task",), files=False),
    "mgda": Case(BareMGDA, ("recipe=mgda", "methods.mgda.grad_source=rep"), files=False),
    "five_methods": Case(
        BareFive,
        (
            "recipe=fixmatch",
            "semi_supervised=[fixmatch,pi_model]",
            "long_tail=logit_adjustment",
            "regularization=label_smoothing",
        ),
        files=False,
    ),
}


@dataclass(frozen=True)
class Regime:
    """What a step waits for. overrides: by case, or by kind of network. cases: what is run there.
    steps, warmup: where nobody says otherwise."""

    about: str
    overrides: dict[str, tuple[str, ...]]
    cases: tuple[str, ...]
    steps: int
    warmup: int


def vit(width: int, depth: int, patch: int) -> tuple[str, ...]:
    options = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": 2,
        "patch_size": patch,
        "img_size": 8,
    }
    return tuple(f"+network.options.{name}={value}" for name, value in options.items())


REGIMES = {
    "host": Regime(
        "a network so small that the host is the limit",
        {
            "cnn": ("data.batch_size=64", "+network.options.width=4"),
            "vit": ("data.batch_size=64", *vit(16, 2, 4)),
        },
        tuple(CASES),
        80,
        10,
    ),
    "device": Regime(
        "a network and a batch so large that computing is the limit",
        {
            "cnn": ("data.batch_size=64", "+network.options.width=96"),
            "fixmatch": (
                "data.batch_size=12",
                "data.unlabeled_ratio=3",
                "+network.options.width=96",
            ),
            "vit": ("data.batch_size=64", *vit(96, 6, 2)),
        },
        ("supervised", "fixmatch", "lora", "multi_task"),
        40,
        10,
    ),
    "input": Regime(
        "PNG files that are decoded in the step's own process, in every loop alike",
        {
            "cnn": (
                "data.batch_size=32",
                "data.unlabeled_ratio=1",
                "data.num_workers=0",
                "+network.options.width=4",
            )
        },
        tuple(name for name, case in CASES.items() if case.files),
        20,
        10,
    ),
}
ON_GPU = {  # the same, where computing is cheap
    "cnn": ("data.batch_size=512", "+network.options.width=256"),
    "fixmatch": ("data.batch_size=128", "data.unlabeled_ratio=3", "+network.options.width=256"),
    "vit": ("data.batch_size=1024", *vit(384, 12, 2)),
}


def overrides_of(case: str, regime: str, device: str, files: Path) -> tuple[str, ...]:
    """What is said of the run on the command line. files: a folder for pictures, made where they
    are needed."""
    chosen = CASES[case]
    settings = REGIMES[regime].overrides
    if regime == "device" and device == "cuda":
        settings = ON_GPU
    data = () if chosen.overrides[0] in ("recipe=multi_task", "recipe=mgda") else ("data=digits",)
    if regime == "input":
        if not files.exists():
            write_pictures(files)
        data = (
            "data=image_folder",
            f"data.root={files}",
            "data.source.size=64",
            "network.name=digits_cnn",
        )
    # optimizer and precision as the loops have them
    same = (
        "optimizer=sgd",
        "trainer.precision=32-true",
        "data.labels_per_class=4",
        "trainer.channels_last=false",
    )
    return (*chosen.overrides, *data, *settings.get(case, settings[chosen.network]), *same)


def write_pictures(folder: Path, classes: int = 4, each: int = 40, side: int = 160) -> None:
    """PNG files of smooth noise, as large and as slow to decode as photographs of that size."""
    source = np.random.default_rng(0)
    for c in range(classes):
        (folder / str(c)).mkdir(parents=True)
        for i in range(each):
            coarse = source.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            picture = np.asarray(
                Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC),
                dtype=np.int16,
            )
            grain = source.integers(-6, 7, picture.shape, dtype=np.int16)
            Image.fromarray((picture + grain).clip(0, 255).astype(np.uint8)).save(
                folder / str(c) / f"{i}.png"
            )


def pairs(recipes: Sequence[str], regimes: Sequence[str]) -> list[tuple[str, str]]:
    """(regime, case) of what was asked for, where there is such."""
    return [
        (regime, case) for regime in regimes for case in REGIMES[regime].cases if case in recipes
    ]
