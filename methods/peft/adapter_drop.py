"""AdapterDrop. Rücklé et al., AdapterDrop: On the Efficiency of Adapters in Transformers, EMNLP
2021, arXiv 2010.11918."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.randomness import derive_seed
from foundation.types import Steps
from methods.peft.activations import Bottleneck, Dropping
from methods.peft.sites import find_blocks
from recipes.contract import Context, Declaration, Method
from recipes.contract.method import Closure
from recipes.networks.network import Network
from recipes.step import Step


def drawn_blocks(seed: int, step: int, blocks: int) -> int:
    """n ~ U{0, …, L-1}: equal on all ranks and in all micro-batches and passes of a step. A number
    of the host, whatever the device."""
    return derive_seed("adapter_drop", seed, step) % blocks


class AdapterDrop(Method):
    """F ← F + A(F) from block n on, n ~ U{0, …, L-1} for every step: the adapters of another
    method are left out of the first n blocks.

    A frozen backbone without active adapters needs no backward, so the step is cheaper by the
    blocks below the first adapter; adapters that are left out get no gradient and do not move, nor
    by momentum or decay. With `robust` one run serves every n at inference; with `specialized` n is
    fixed, and the first adapters are never trained. The paper loses little with 5 of 12 blocks.

    mode: draw n in every step, `robust`, or fix it, `specialized`.
    blocks: n at evaluation and, with `specialized`, in training, below the number of blocks L; 0
        (paper: up to 5 of 12).
    """

    declaration = Declaration(
        tags=("delta",),
        requires={
            "adapters": (
                "it leaves adapters out, and there are none; add adapters, e.g. "
                "peft=[adapter,adapter_drop]"
            )
        },
        after=("adapters",),
        uncompiled="which adapters run differs between steps",
    )

    def __init__(self, mode: Literal["robust", "specialized"] = "robust", blocks: Steps = 0):
        self.mode = mode
        self.blocks = blocks

    def idle_settings(self) -> list[str]:
        return ["blocks"] if self.mode == "specialized" and not self.blocks else []

    def surgery(self, network: Network) -> None:
        names = find_blocks(network.backbone)
        adapters = bottlenecks(network)
        if len(names) < 2 or self.blocks >= len(names):
            option = f"methods.{self.key}.blocks={self.blocks}"
            problem = f"{type(network.backbone).__name__} has {len(names)} block(s) with adapters"
            remedy = f"set it below {len(names)}" if len(names) > 1 else "train without it"
            raise UserError(option, f"{problem}, and the last must keep them", remedy)
        dropping = Dropping(self.blocks if self.mode == "specialized" else 0, self.blocks)
        network.deltas[self.key] = dropping
        for adapter in adapters:
            owners = [i for i, name in enumerate(names) if adapter.site.startswith(f"{name}.")]
            adapter.block = owners[0]
            adapter.dropping = dropping
            if adapter.block < dropping.training_blocks:
                adapter.requires_grad_(False)
        adapters[-1].down.register_forward_hook(Touch(adapters).add)

    def prepare(self, step: Step, context: Context) -> None:
        if self.mode == "robust":
            dropping = context.network.deltas[self.key]
            assert isinstance(dropping, Dropping)
            layers = 1 + max(adapter.block for adapter in bottlenecks(context.network))
            dropping.training_blocks = drawn_blocks(context.seed, step.progress.step, layers)

    def wrap_step(self, closure: Closure, optimizer: Any, context: Context) -> Any:
        result = closure()
        for adapter in bottlenecks(context.network):
            if adapter.dropped:
                for parameter in adapter.parameters():
                    parameter.grad = None
        return result


class Touch:
    """A hook on a layer of the last adapter: with several ranks every parameter must be in the
    graph, so those of adapters that are left out are added 0 times."""

    def __init__(self, adapters: list[Bottleneck]):
        self.adapters = tuple(adapters)

    def add(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and torch.distributed.is_initialized()):
            return output
        for adapter in self.adapters:
            if adapter.dropped:
                for parameter in adapter.parameters():
                    if parameter.requires_grad:
                        output = output + 0.0 * parameter.sum()
        return output


def bottlenecks(network: Network) -> list[Bottleneck]:
    """All adapters of the network, in the order of the blocks for each method."""
    return [module for module in network.deltas.modules() if isinstance(module, Bottleneck)]
