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


FIVE = (
    "recipe=fixmatch",
    "semi_supervised=[fixmatch,pi_model]",
    "long_tail=logit_adjustment",
    "regularization=label_smoothing",
)
MGDA = ("recipe=mgda", "methods.mgda.grad_source=rep")
CASES = {
    "supervised": Case(Bare, ("recipe=supervised",)),
    "fixmatch": Case(BareFixMatch, ("recipe=fixmatch",)),
    "lora": Case(Bare, ("recipe=supervised", "peft=lora", *VIT), "vit", files=False),
    "multi_task": Case(BareTasks, ("recipe=multi_task",), files=False),
    "mgda": Case(BareMGDA, MGDA, files=False),
    "five_methods": Case(BareFive, FIVE, files=False),
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
    options = {"embed_dim": width, "depth": depth, "num_heads": 2, "patch_size": patch}
    options["img_size"] = 8
    return tuple(f"+network.options.{name}={value}" for name, value in options.items())


B64, WIDE = "data.batch_size=64", "+network.options.width="
HOST = {"cnn": (B64, f"{WIDE}4"), "vit": (B64, *vit(16, 2, 4))}
DEVICE = {
    "cnn": (B64, f"{WIDE}96"),
    "fixmatch": ("data.batch_size=12", "data.unlabeled_ratio=3", f"{WIDE}96"),
    "vit": (B64, *vit(96, 6, 2)),
}
ON_GPU = {  # the same, where computing is cheap
    "cnn": ("data.batch_size=512", f"{WIDE}256"),
    "fixmatch": ("data.batch_size=128", "data.unlabeled_ratio=3", f"{WIDE}256"),
    "vit": ("data.batch_size=1024", *vit(384, 12, 2)),
}
FEW = ("data.batch_size=32", "data.unlabeled_ratio=1", "data.num_workers=0", f"{WIDE}4")
LARGE = "a network and a batch so large that computing is the limit"
FILES = "PNG files that are decoded in the step's own process, in every loop alike"
WITH_FILES = tuple(name for name, case in CASES.items() if case.files)
REGIMES = {
    "host": Regime("a network so small that the host is the limit", HOST, tuple(CASES), 80, 10),
    "device": Regime(LARGE, DEVICE, ("supervised", "fixmatch", "lora", "multi_task"), 40, 10),
    "input": Regime(FILES, {"cnn": FEW}, WITH_FILES, 20, 10),
}
# optimizer and precision as the loops have them
SAME = (
    "optimizer=sgd",
    "trainer.precision=32-true",
    "data.labels_per_class=4",
    "trainer.channels_last=false",
)


def overrides_of(case: str, regime: str, device: str, files: Path) -> tuple[str, ...]:
    """The command of a run. files: a folder for pictures, made where they are needed."""
    chosen, settings = CASES[case], REGIMES[regime].overrides
    if regime == "device" and device == "cuda":
        settings = ON_GPU
    own_data = chosen.overrides[0] in ("recipe=multi_task", "recipe=mgda")
    data: tuple[str, ...] = () if own_data else ("data=digits",)
    if regime == "input":
        if not files.exists():
            write_pictures(files)
        data = ("data=image_folder", f"data.root={files}")
        data += ("data.source.size=64", "network.name=digits_cnn")
    return (*chosen.overrides, *data, *settings.get(case, settings[chosen.network]), *SAME)


def write_pictures(folder: Path, classes: int = 4, each: int = 40, side: int = 160) -> None:
    """PNG files of smooth noise, as large and as slow to decode as photographs of that size."""
    source = np.random.default_rng(0)
    for c in range(classes):
        (folder / str(c)).mkdir(parents=True)
        for i in range(each):
            coarse = Image.fromarray(source.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
            grain = source.integers(-6, 7, smooth.shape, dtype=np.int16)
            picture = Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))
            picture.save(folder / str(c) / f"{i}.png")


def pairs(recipes: Sequence[str], regimes: Sequence[str]) -> list[tuple[str, str]]:
    """(regime, case) of what was asked for, where there is such."""
    both = [(regime, case) for regime in regimes for case in REGIMES[regime].cases]
    return [(regime, case) for regime, case in both if case in recipes]
