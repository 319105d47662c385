"""The hardware of a run: memory format, compilation, and peak memory."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from foundation.errors import UserError
from recipes.engine.trainer import TrainerSettings
from recipes.networks.network import Network


def on_gpu(settings: TrainerSettings) -> bool:
    """Whether the run uses an NVIDIA or AMD GPU."""
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def convolutional(network: nn.Module) -> bool:
    """Whether most of a network's parameters belong to convolutions: false for a ViT."""
    in_convolutions = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            in_convolutions += sum(p.numel() for p in module.parameters(recurse=False))
    return 2 * in_convolutions > sum(p.numel() for p in network.parameters())


def use_channels_last(
    wanted: bool | Literal["auto"], network: Network, device: torch.device
) -> bool:
    """Whether kernels get the channels-last memory format. `auto`: those of a convolutional image
    network on a GPU, whose tensor cores need it."""
    if network.kind != "image":
        return False
    if wanted == "auto":
        return device.type == "cuda" and convolutional(network)
    return wanted


def set_memory_format(
    networks: Sequence[Network], wanted: bool | Literal["auto"], device: torch.device
) -> None:
    """Convert all networks to channels-last if `use_channels_last` holds for the first."""
    if use_channels_last(wanted, networks[0], device):
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def backend_of(wanted: bool | str) -> str | None:
    """The name of the requested compiler; None for none."""
    if wanted is True:
        return "inductor"
    return wanted or None


def check_compiler(settings: TrainerSettings) -> None:
    """Raise UserError if inductor lacks a compiler for its code: a C++ compiler, or Triton on a
    GPU."""
    if backend_of(settings.compile) != "inductor":
        return
    if on_gpu(settings):
        missing = None if find_spec("triton") else "Triton"
    else:
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        missing = None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
    if missing:
        raise UserError(
            f"trainer.compile={str(settings.compile).lower()}: needs {missing}, which is not "
            "installed; install it, or set trainer.compile=false"
        )


def prepare_compiler(several_backwards: bool) -> None:
    """Raise the recompile limit for the variants of a run, and keep buffers after a backward if one
    forward has several."""
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch

    # variants: trained and EMA network, training and evaluation, full and partial batches, frozen
    # statistics or not
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    functorch.donated_buffer = functorch.donated_buffer and not several_backwards


def compile_networks(networks: Sequence[Network], backend: str, several_backwards: bool) -> None:
    """Compile each network, on its first forward."""
    prepare_compiler(several_backwards)
    for network in networks:
        network.compile(backend=backend)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes: on a GPU of torch's tensors, otherwise of the process. None if the
    system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_memory(most=True)


def resident_memory(most: bool) -> int | None:
    """Bytes of this process in memory: now, or with `most` the most since it began. None if the
    system does not report it."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss begins with the peak of the process that started this one
        name = "VmHWM" if most else "VmRSS"
        kibibytes = re.search(rf"^{name}:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        return int(kibibytes[1]) * 1024 if kibibytes else None
    if not most:
        return None
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # bytes on macOS, kibibytes elsewhere
    return peak if sys.platform == "darwin" else peak * 1024
