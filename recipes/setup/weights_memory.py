"""Memory that the weights of a run take on each device, with their gradients and the optimizer's
state: of the network that trains and of those beside it. It is counted on the meta device, before
anything is allocated. Activations, and modules that methods build for themselves, come on top.
"""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.contract.composition import Composition
from recipes.engine import sharding
from recipes.engine.hardware import on_gpu
from recipes.engine.trainer import TrainerSettings
from recipes.networks.network import Network
from recipes.networks.requests import Snapshot, Twin
from recipes.optimization.build import build_optimizer
from recipes.optimization.optimizers import OptimizerSettings

GIB = 2**30
TRIED = 64  # side of the matrix with which the state of an optimizer is measured


def weights_memory(
    network: Network, composition: Composition, optimizer: OptimizerSettings, precision: str
) -> dict[str, int]:
    """Bytes by network: `network`, `teacher`, and the names of the composition. A network of
    another run is not counted; it is loaded at its first use."""
    # in `16-true` and `bf16-true` the weights themselves have two bytes
    share = 0.5 if precision in ("16-true", "bf16-true") else 1.0
    tensors = [*network.parameters(), *network.buffers()]
    whole = share * sum(map(_bytes, tensors))
    trainable = share * sum(_bytes(p) for p in network.parameters() if p.requires_grad)
    trained = whole + trainable * (1 + state_share(optimizer))
    found = {"network": trained}
    if composition.teacher:
        found["teacher"] = whole
    for name, request in composition.networks.items():
        if isinstance(request, Twin):
            found[name] = trained
        elif isinstance(request, Snapshot):
            found[name] = whole
    return {name: int(size) for name, size in found.items()}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def state_share(settings: OptimizerSettings) -> float:
    """The state of an optimizer for each value that it trains: 2 for AdamW, 1 for SGD with
    momentum. Measured in a step of a matrix; 2 for one that needs more than gradients."""
    # zeros: a drawn matrix would change the random numbers of the run
    matrix = nn.Parameter(torch.zeros(TRIED, TRIED, device="cpu"))
    optimizer = build_optimizer(nn.ParameterList([matrix]), settings)
    matrix.grad = torch.ones_like(matrix)
    try:
        optimizer.step()
    except (TypeError, RuntimeError):  # it asks for a closure, or for all the network
        return 2.0
    state = optimizer.state[matrix].values()
    return sum(value.numel() for value in state if torch.is_tensor(value)) / TRIED**2


def check_weights_memory(sizes: Mapping[str, int], settings: TrainerSettings) -> None:
    """Raise `UserError` where they do not fit into a device, or into what `trainer.memory` grants.
    sizes: as of `weights_memory`."""
    if settings.strategy == sharding.FSDP or "deepspeed" in settings.strategy:
        return  # each device has a share
    declared = settings.memory is not None
    room = settings.memory * GIB if settings.memory is not None else device_memory(settings)
    needed = sum(sizes.values())
    if needed <= room:
        return
    parts = ", ".join(f"{name} {size / GIB:.3g}" for name, size in sizes.items())
    where = f"trainer.memory={settings.memory:g}" if declared else "the memory of a device"
    raise UserError(
        where,
        f"{'' if declared else f'{room / GIB:.3g} GiB, but '}weights, gradients and optimizer "
        f"state take {needed / GIB:.3g} GiB ({parts})",
        "take a smaller network, fewer trained weights (peft=lora)"
        + (", or a method without a second network" if len(sizes) > 1 else ""),
    )


def device_memory(settings: TrainerSettings) -> int:
    """Bytes of the smallest device, or of the host where it trains."""
    devices = range(torch.cuda.device_count() if on_gpu(settings) else 0)
    if devices:
        return min(torch.cuda.get_device_properties(i).total_memory for i in devices)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
