"""What a run makes of the machine it is on: precision, memory format, compilation, and the memory
it took."""

import os
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from foundation.errors import UserError
from recipes.engine.trainer import TrainerSettings
from recipes.networks.network import Network


def on_gpu(settings: TrainerSettings) -> bool:
    """Whether the run will be on an NVIDIA or AMD GPU."""
    return settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def convolutional(network: nn.Module) -> bool:
    """Whether most of the numbers that a network holds are kernels of convolutions: not so in a
    ViT."""
    kernels = sum(
        p.numel()
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
        for p in m.parameters(recurse=False)
    )
    return 2 * kernels > sum(p.numel() for p in network.parameters())


def lies_channels_last(
    wanted: bool | Literal["auto"], network: Network, device: torch.device
) -> bool:
    """Whether kernels are to lie channels-last. `auto`: those of a convolutional network for
    pictures on a GPU, whose tensor cores want them so."""
    if network.kind != "image":
        return False
    return device.type == "cuda" and convolutional(network) if wanted == "auto" else wanted


def set_memory_format(
    networks: Sequence[Network], wanted: bool | Literal["auto"], device: torch.device
) -> None:
    """Kernels channels-last in all networks, where `lies_channels_last` says so of the first."""
    if lies_channels_last(wanted, networks[0], device):
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def backend_of(wanted: bool | str) -> str | None:
    """The name of the compiler that is asked for; None for none."""
    return "inductor" if wanted is True else wanted or None


def check_compiler(settings: TrainerSettings) -> None:
    """Raise UserError where inductor has nothing to write its code for: a C++ compiler, or Triton
    on a GPU."""
    if backend_of(settings.compile) != "inductor":
        return
    if on_gpu(settings):
        missing = None if find_spec("triton") else "Triton"
    else:
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        missing = None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
    if missing:
        raise UserError(
            f"trainer.compile={str(settings.compile).lower()}: needs {missing}, which is not here; "
            "install it, or set "
            "trainer.compile=false"
        )


def prepare_compiler(several_backwards: bool) -> None:
    """Room for what a run compiles, and buffers that outlive a backward where there are several
    through one forward."""
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch

    # trained and averaged network, training and evaluation, whole and partial batches, statistics
    # held still or not
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    functorch.donated_buffer = functorch.donated_buffer and not several_backwards


def compile_networks(networks: Sequence[Network], backend: str, several_backwards: bool) -> None:
    """Compile each network, on its first forward."""
    prepare_compiler(several_backwards)
    for network in networks:
        network.compile(backend=backend)


def peak_memory(device: torch.device) -> int | None:
    """The most memory that was taken so far, in bytes: on a GPU what torch's tensors took there,
    else what the whole process held. None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
