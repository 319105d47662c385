"""Parameters in parts on several devices (`trainer.strategy=fsdp`): torch's FSDP2, by Lightning's
strategy for it.

Every device keeps its share of each parameter, of its gradient and of what the optimizer knows of
it, and has a block whole only while it computes with it. What a device sees of a network is
therefore what its forward gives; methods that read or change parameters themselves do not declare
`sharded`. Evaluation has the parameters whole: ranks may have different numbers of batches there,
and none waits for another. Checkpoints hold them whole, as those of other strategies do.
"""

from collections.abc import Iterator

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from foundation.errors import UserError
from recipes.networks.network import Network

FSDP = "fsdp"


def strategy(world: int) -> ModelParallelStrategy:
    """Parameters in `world` parts, the batch too, and checkpoints in one file."""
    return ModelParallelStrategy(
        data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Split the parameters of a network, in place; one that is split already stays as it is.

    Each of its repeated blocks is one unit, the rest of the backbone another, and so is each head.
    The network itself is none: FSDP finds the end of a unit's forward by tensors that come out of
    it."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(network.backbone, FSDPModule):
        return
    if network.batch_statistics:
        raise UserError(
            f"trainer.strategy={FSDP}: the network normalises by batch, and every device would "
            "have statistics of its "
            "own; choose another network, or ddp"
        )
    for unit in [*blocks(network.backbone), network.backbone, *network.heads.values()]:
        fully_shard(unit, mesh=mesh)


def blocks(backbone: nn.Module) -> Iterator[nn.Module]:
    """The repeated parts of a backbone that have parameters: the entries of its lists and
    sequences, outermost only."""
    for child in backbone.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from (entry for entry in child if any(True for _ in entry.parameters()))
        else:
            yield from blocks(child)


def keep_whole(network: Network, mesh: DeviceMesh | None, whole: bool) -> None:
    """Have the parameters whole on every device, until they are to be in parts again; nothing for
    other strategies."""
    if mesh is None:
        return
    from torch.distributed.fsdp import FSDPModule

    for unit in network.modules():
        if isinstance(unit, FSDPModule):
            unit.set_reshard_after_forward(not whole, recurse=False)
            unit.unshard() if whole else unit.reshard()
