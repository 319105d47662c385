"""Sharded parameters on several devices (`trainer.strategy=fsdp`): torch's FSDP2, by Lightning's
strategy for it.

Every device stores a shard of each parameter, its gradient and its optimizer state, and gathers a
block's parameters only while it computes with it. Methods may therefore use a network's forward
only; those that read or change parameters do not declare `sharded`. During evaluation the
parameters are unsharded: ranks may have different numbers of batches, and none waits for another.
Checkpoints contain full parameters, like those of other strategies.
"""

from collections.abc import Iterator

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from foundation.errors import UserError
from recipes.networks.network import Network

FSDP = "fsdp"


def strategy(world: int) -> ModelParallelStrategy:
    """Parameters and batch sharded over `world` devices; checkpoints are one file."""
    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Shard the parameters of a network in place, unless it is sharded already.

    Each repeated block is one unit, the rest of the backbone another, and so is each head. The
    network itself is not a unit: FSDP detects the end of a unit's forward from the tensors
    that it returns."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(network.backbone, FSDPModule):
        return
    if network.batch_statistics:
        raise UserError(
            f"trainer.strategy={FSDP}: the network has batch normalization, and every device would "
            "have its own statistics; choose another network, or ddp"
        )
    for unit in [*blocks(network.backbone), network.backbone, *network.heads.values()]:
        fully_shard(unit, mesh=mesh)


def blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of a backbone that have parameters: the entries of its outermost lists
    and sequences."""
    for child in backbone.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (entry for entry in child if list(entry.parameters()))
        else:
            yield from blocks(child)


def keep_whole(network: Network, mesh: DeviceMesh | None, whole: bool) -> None:
    """Gather the full parameters on every device (`whole`), or shard them again; no effect with
    other strategies."""
    if mesh is None:
        return
    from torch.distributed.fsdp import FSDPModule

    for unit in network.modules():
        if isinstance(unit, FSDPModule):
            unit.set_reshard_after_forward(not whole, recurse=False)
            unit.unshard() if whole else unit.reshard()
