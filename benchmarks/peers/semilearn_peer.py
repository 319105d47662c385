"""FixMatch as semilearn (USB) runs it: its own step, hooks, loaders, optimizer and averaged
weights, on our data.

The package as a whole imports what training on pictures never uses (aim, torchaudio, scikit-image),
so the modules of its step are loaded without the `__init__` of their packages. Two things are ours:
batches go to a GPU only where there is one, and evaluation, logging and checkpoints are left out.
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
from benchmarks.speed.bare import BareFixMatch
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
    samplers = _module("datasets.samplers.sampler").name2sampler
    _fill("datasets", get_collactor=lambda *_: None, name2sampler=samplers)
    augmentation = importlib.import_module("semilearn.datasets.augmentation")
    _fill("core.utils", **_public(_module("core.utils.misc")))
    _fill("core.utils", **_public(_module("core.utils.build")))
    _fill("core.utils", ALGORITHMS=_module("core.utils.registry").ALGORITHMS)
    found = {name: getattr(_module(f"core.hooks.{file}"), name) for name, file in HOOKS.items()}
    unused = {f"{name}Hook": hook for name in UNUSED}
    priority = _module("core.hooks.priority").get_priority
    _fill("core.hooks", Hook=hook, get_priority=priority, **found, **unused)
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
        channels_last = pixels.permute(0, 2, 3, 1).contiguous()
        grey = pixels.shape[1] == 1
        self.pixels: np.ndarray = (channels_last.squeeze(3) if grey else channels_last).numpy()
        self.labels = labels.numpy()


def parts_of(assembly: Assembly) -> dict[str, Part]:
    """What each stream of a run reads."""
    found = {}
    for name in assembly.datamodule.batch_sizes():
        part = assembly.datamodule.parts[name]
        found[name] = Part(part.source.pixels[part.rows], part.targets["label"])
    return found


def algorithm(
    bare: BareFixMatch,
    total: int,
    *,
    weak: list[Any] | None = None,
    strong: list[Any] | None = None,
    **chosen: Any,
) -> Any:
    """Its FixMatch, ready to train `total` steps with the pictures, weights and rates that a bare
    loop begins with. weak, strong: transforms of a Pillow picture before ToTensor; None: those of
    its CIFAR-10. chosen: see `settings`."""
    parts = load()
    if parts is None:
        raise ModuleNotFoundError("semilearn is not installed")
    labeled, unlabeled = parts_of(bare.assembly).values()
    size, others = bare.assembly.datamodule.batch_sizes().values()
    decay = bare.optimizer.param_groups[0]["weight_decay"]
    side = labeled.pixels.shape[1]
    shift = transforms.RandomCrop(side, side // 8, padding_mode="reflect")
    first = [shift, transforms.RandomHorizontalFlip()]
    weak = first if weak is None else weak
    strong = [*first, parts.RandAugment(3, 5)] if strong is None else strong
    both = [transforms.Compose([*views, transforms.ToTensor()]) for views in (weak, strong)]

    def build(num_classes: int, **_: Any) -> nn.Module:
        network: Any = bare.network
        return Described(copy.deepcopy(network)).to(bare.device)

    options = settings(
        total=total, batch=size, ratio=others // size, rate=bare.rate, decay=decay, **chosen
    )
    kind = in_memory(parts, labeled, unlabeled, *both, bare.device)
    log = SimpleNamespace(info=lambda *_: None)
    with warnings.catch_warnings():
        # of the gradient scaler's old name, and that there is no GPU
        warnings.simplefilter("ignore")
        made = kind(options, build, None, log)
    made.model.train()
    made.call_hook("before_run")
    return made


def in_memory(
    parts: Any, labeled: Part, unlabeled: Part, weakly: Any, strongly: Any, device: str
) -> Any:
    """Its class of FixMatch on these pictures, with the hooks that train and no others."""

    class InMemory(parts.FixMatch):  # type: ignore[misc]
        def set_dataset(self) -> dict[str, Any]:
            def made(part: Part, unlabeled: bool) -> Any:
                views = weakly, unlabeled, strongly
                return parts.BasicDataset("fixmatch", part.pixels, part.labels, 10, *views)

            found = {"train_lb": made(labeled, False), "train_ulb": made(unlabeled, True)}
            return found | {"eval": made(labeled, False), "test": None}

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
    off = ("resume", "distributed", "use_pretrain", "use_wandb", "use_aim")
    found: dict[str, Any] = dict.fromkeys(off, False)
    found |= dict.fromkeys(("save_name", "save_dir", "pretrain_path"), "")
    found |= dict.fromkeys(("num_eval_iter", "num_log_iter"), total + 1)
    found |= dict.fromkeys(("gpu", "rank", "clip_grad", "num_warmup_iter"), 0)
    found |= dict.fromkeys(("epoch", "world_size"), 1)
    found |= dict.fromkeys(("layer_decay", "ulb_loss_ratio"), 1.0)
    found |= dict.fromkeys(("use_cat", "hard_label"), True)
    found |= dict.fromkeys(("batch_size", "eval_batch_size"), batch)
    # the network is asked for the kind of batch alone
    found |= {"algorithm": "fixmatch", "net": "wrn_28_2", "num_classes": 10}
    found |= {"num_train_iter": total, "train_sampler": "RandomSampler", "uratio": ratio}
    found |= {"num_workers": workers, "amp": amp}
    found |= {"optim": "SGD", "lr": rate, "momentum": 0.9, "weight_decay": decay}
    found |= {"ema_m": averaging, "T": 0.5, "p_cutoff": threshold}
    return SimpleNamespace(**found)


def loaded(made: Any) -> Iterator[dict[str, Tensor]]:
    """The batches of its own loaders, for ever."""
    while True:
        loaders = made.loader_dict["train_lb"], made.loader_dict["train_ulb"]
        for labeled, unlabeled in zip(*loaders, strict=False):
            yield {**labeled, **unlabeled}


def step(made: Any, batch: dict[str, Any]) -> Tensor:
    """What stands in its `train`, once. Returns the loss."""
    made.call_hook("before_train_step")
    made.out_dict, made.log_dict = made.train_step(**made.process_batch(**batch))
    made.call_hook("after_train_step")
    made.it += 1
    loss: Tensor = made.out_dict["loss"].detach()
    return loss
