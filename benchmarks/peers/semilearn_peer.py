"""FixMatch as semilearn (USB) runs it: its own step, hooks, loaders, optimizer and averaged
weights, on our data.

The package as a whole imports what training on pictures never uses (aim, torchaudio, scikit-image),
so the modules of its step are loaded without the `__init__` of the packages they lie in. Two things
are ours: batches go to a GPU only where there is one, and evaluation, logging and checkpoints are
    left out.
"""

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torchvision import transforms

from benchmarks.peers.view_peers import semilearn_folder
from recipes.networks.network import Network
from recipes.runs.assembly import Assembly
from recipes.step import Embedded

PACKAGES = (
    *("", "core", "core.hooks", "core.utils", "algorithms", "algorithms.fixmatch"),
    *("datasets", "datasets.cv_datasets", "datasets.samplers", "nets"),
)
HOOKS = {"ParamUpdateHook": "param_update", "EMAHook": "ema"}
UNUSED = ("Aim", "Checkpoint", "DistSamplerSeed", "Evaluation", "Logging", "Timer", "WANDB")


@cache
def load() -> SimpleNamespace | None:
    """Its classes, None where it is not installed."""
    folder = semilearn_folder()
    if folder is None:
        return None
    for name in PACKAGES:
        package = ModuleType(f"semilearn.{name}".rstrip("."))
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[package.__name__] = package
    for name in ("ruamel", "ruamel.yaml"):  # reads its config files
        sys.modules.setdefault(name, ModuleType(name))
    hook = _module("core.hooks.hook").Hook
    _fill(
        "datasets",
        get_collactor=lambda *_: None,
        name2sampler=_module("datasets.samplers.sampler").name2sampler,
    )
    augmentation = importlib.import_module("semilearn.datasets.augmentation")
    registry, utilities = _module("core.utils.registry"), _module("core.utils.misc")
    built = _module("core.utils.build")
    _fill(
        "core.utils", **(_public(utilities) | _public(built) | {"ALGORITHMS": registry.ALGORITHMS})
    )
    found = {name: getattr(_module(f"core.hooks.{file}"), name) for name, file in HOOKS.items()}
    unused = {f"{name}Hook": hook for name in UNUSED}
    _fill(
        "core.hooks",
        Hook=hook,
        get_priority=_module("core.hooks.priority").get_priority,
        **found,
        **unused,
    )
    base = _module("core.algorithmbase")
    _fill("core", AlgorithmBase=base.AlgorithmBase)
    return SimpleNamespace(
        FixMatch=_module("algorithms.fixmatch.fixmatch").FixMatch,
        BasicDataset=_module("datasets.cv_datasets.datasetbase").BasicDataset,
        RandAugment=augmentation.RandAugment,
        hooks=found,
        algorithm_hooks=importlib.import_module("semilearn.algorithms.hooks"),
    )


def _module(name: str) -> Any:
    return importlib.import_module(f"semilearn.{name}")


def _fill(package: str, **names: Any) -> None:
    vars(sys.modules[f"semilearn.{package}"]).update(names)


def _public(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


class Described(nn.Module):
    """Our network, answering as semilearn's do. Normalisation lies inside."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        output = self.network(Embedded(x))
        return {"logits": output.logits["label"], "feat": output.features}


class Part:
    """Pictures uint8 [N, C, H, W] and labels [N], as semilearn's data sets hold them."""

    def __init__(self, pixels: Tensor, labels: Tensor):
        grey = pixels.shape[1] == 1
        self.pixels: np.ndarray = (
            pixels.permute(0, 2, 3, 1).squeeze(3).numpy() if grey else _last(pixels)
        )
        self.labels = labels.numpy()


def parts_of(assembly: Assembly) -> list[tuple[Part, int]]:
    """What each stream of a run reads, and how many of it in a batch."""
    data, found = assembly.datamodule, []
    for name, size in data.batch_sizes().items():
        part = data.parts[name]
        found.append((Part(part.source.pixels[part.rows], part.targets["label"]), size))
    return found


def _last(pixels: Tensor) -> np.ndarray:
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def algorithm(
    network: Network,
    labeled: Part,
    unlabeled: Part,
    *,
    device: str = "cpu",
    weak: list[Any] | None = None,
    strong: list[Any] | None = None,
    **chosen: Any,
) -> Any:
    """Its FixMatch, ready to train. weak, strong: transforms of a Pillow picture before ToTensor;
    None: those of its CIFAR-10. chosen: see `settings`."""
    found = load()
    if found is None:
        raise ModuleNotFoundError("semilearn is not installed")
    parts: Any = found
    side = labeled.pixels.shape[1]
    first = [
        transforms.RandomCrop(side, side // 8, padding_mode="reflect"),
        transforms.RandomHorizontalFlip(),
    ]
    weakly = transforms.Compose([*(first if weak is None else weak), transforms.ToTensor()])
    strongly = [*first, parts.RandAugment(3, 5)] if strong is None else strong
    strongly = transforms.Compose([*strongly, transforms.ToTensor()])

    def build(num_classes: int, **_: Any) -> nn.Module:
        return Described(copy.deepcopy(network)).to(device)

    kind = in_memory(parts, labeled, unlabeled, weakly, strongly, device)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the gradient scaler's old name, and that there is no GPU
        made = kind(settings(**chosen), build, None, SimpleNamespace(info=lambda *_: None))
    made.model.train()
    made.call_hook("before_run")
    return made


def in_memory(
    parts: Any, labeled: Part, unlabeled: Part, weakly: Any, strongly: Any, device: str
) -> Any:
    """Its class of FixMatch on these pictures, with the hooks that train and no others."""

    class InMemory(parts.FixMatch):  # type: ignore[misc]
        def set_dataset(self) -> dict[str, Any]:
            sets = {
                "train_lb": (labeled, False),
                "train_ulb": (unlabeled, True),
                "eval": (labeled, False),
            }
            made = {
                name: parts.BasicDataset(
                    "fixmatch", part.pixels, part.labels, 10, weakly, is_unlabeled, strongly
                )
                for name, (part, is_unlabeled) in sets.items()
            }
            return made | {"test": None}

        def set_hooks(self) -> None:
            self.register_hook(parts.algorithm_hooks.PseudoLabelingHook(), "PseudoLabelingHook")
            self.register_hook(parts.algorithm_hooks.FixedThresholdingHook(), "MaskingHook")
            self.register_hook(parts.hooks["ParamUpdateHook"](), None, "HIGHEST")
            self.register_hook(parts.hooks["EMAHook"](), None, "HIGH")

        def process_batch(self, input_args: Any = None, **given: Any) -> dict[str, Any]:
            if device == "cuda":
                return dict(super().process_batch(input_args, **given))
            return {name: given[name] for name in ("x_lb", "y_lb", "x_ulb_w", "x_ulb_s")}

    return InMemory


def settings(
    *,
    total: int,
    batch: int,
    ratio: int,
    rate: float,
    decay: float,
    averaging: float = 0.999,
    threshold: float = 0.95,
    workers: int = 0,
    amp: bool = False,
) -> SimpleNamespace:
    """What its FixMatch reads, of `total` steps."""
    return SimpleNamespace(
        **dict.fromkeys(("resume", "distributed", "use_pretrain", "use_wandb", "use_aim"), False),
        **dict.fromkeys(("save_name", "save_dir", "pretrain_path"), ""),
        **dict.fromkeys(("num_eval_iter", "num_log_iter"), total + 1),
        **dict.fromkeys(("gpu", "rank", "clip_grad", "num_warmup_iter"), 0),
        **dict.fromkeys(("epoch", "world_size"), 1),
        **dict.fromkeys(("layer_decay", "ulb_loss_ratio"), 1.0),
        **dict.fromkeys(("use_cat", "hard_label"), True),
        **dict.fromkeys(("batch_size", "eval_batch_size"), batch),
        algorithm="fixmatch",
        net="wrn_28_2",  # asked for the kind of batch alone
        num_classes=10,
        num_train_iter=total,
        train_sampler="RandomSampler",
        uratio=ratio,
        num_workers=workers,
        amp=amp,
        optim="SGD",
        lr=rate,
        momentum=0.9,
        weight_decay=decay,
        ema_m=averaging,
        T=0.5,
        p_cutoff=threshold,
    )


def loaded(made: Any) -> Iterator[dict[str, Tensor]]:
    """The batches of its own loaders, for ever."""
    while True:
        for labeled, unlabeled in zip(
            made.loader_dict["train_lb"], made.loader_dict["train_ulb"], strict=False
        ):
            yield {**labeled, **unlabeled}


def step(made: Any, batch: dict[str, Any]) -> Tensor:
    """What stands in its `train`, once. Returns the loss."""
    made.call_hook("before_train_step")
    made.out_dict, made.log_dict = made.train_step(**made.process_batch(**batch))
    made.call_hook("after_train_step")
    made.it += 1
    loss: Tensor = made.out_dict["loss"].detach()
    return loss
