"""Small networks parallel to or after the sub-layers of a frozen one, and where they are attached.

Which dropout follows an output layer, and whether a block ends in a norm (post-norm, as BERT) or in
a sum (pre-norm, as ViT), is not read from names: the network is run once, and modules are connected
by the tensors that they pass on.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.freezing import on_meta_device, trial_forward
from recipes.networks.network import Network

Activation = Callable[[Tensor], Tensor]


def bottleneck(
    z: Tensor, down: nn.Linear, up: nn.Linear, activation: Activation, scale: float
) -> Tensor:
    """A(z) = s (U σ(D z + b_D) + b_U). z: [..., d], D: [m, d], U: [d, m]."""
    change = up(activation(down(z)))
    return change if scale == 1.0 else scale * change


class Dropping(nn.Module):
    """How many of the first blocks run without their adapters: `training_blocks` while the network
    trains, `evaluation_blocks` otherwise."""

    def __init__(self, training_blocks: int, evaluation_blocks: int):
        super().__init__()
        self.training_blocks = training_blocks
        self.evaluation_blocks = evaluation_blocks

    @property
    def blocks(self) -> int:
        return self.training_blocks if self.training else self.evaluation_blocks


class Bottleneck(nn.Module):
    """A(z) with its weights, and the hooks that add it to a network.

    site: name of its layer. variant: its place in the block. block: number of its block, and
        dropping: how many blocks run without adapters; None if all run.
    """

    def __init__(
        self, width: int, size: int, activation: Activation, scale: float, dropout: float, site: str
    ):
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        self.activation = activation
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.site = site
        self.variant = ""
        self.seen: Tensor | None = None
        self.block = 0
        self.dropping: Dropping | None = None

    def forward(self, z: Tensor) -> Tensor:
        return bottleneck(z, self.down, self.up, self._active, self.scale).to(z.dtype)

    def added(self, to: Tensor, z: Tensor) -> Tensor:
        """to + A(z), scaled in the sum, which saves one pass."""
        unscaled = bottleneck(z, self.down, self.up, self._active, 1.0).to(z.dtype)
        return torch.add(to, unscaled, alpha=self.scale)

    def _active(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.activation(hidden))

    def about(self) -> dict[str, Any]:
        """What its weights do not tell, for their file."""
        names = {function: name for name, function in ACTIVATIONS.items()}
        activation = names.get(self.activation, "")
        return {"variant": self.variant, "scale": self.scale, "activation": activation}

    def start(self, paper: bool) -> None:
        """Initialise: U = 0, so that the output is unchanged before training, and D as LoRA's A;
        `paper`: both N(0, 0.01²), cut at 2σ."""
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)
            if paper:
                nn.init.trunc_normal_(layer.weight, std=1e-2, a=-2e-2, b=2e-2)
        if not paper:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)

    @property
    def dropped(self) -> bool:
        return self.dropping is not None and self.block < self.dropping.blocks

    # -- hooks -------------------------------------------------------------------------------------
    def behind(self, module: nn.Module, args: Any, output: Any) -> Any:
        """F → F + A(F), on an output layer or, in pre-norm blocks, on the whole block."""
        if self.dropped:
            return output
        if isinstance(output, tuple):
            return (self.added(output[0], output[0]), *output[1:])
        return self.added(output, output)

    def within_norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """LN(u) → LN(u + A(LN(u))): the block's last norm is applied twice."""
        if self.dropped:
            return output
        return norm.forward(self.added(args[0], output))

    def look(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Keep the input of the feed-forward part for `beside`."""
        self.seen = args[0]

    def beside(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """F(x) → F(x) + A(x), x from `look`."""
        assert self.seen is not None
        seen = self.seen
        self.seen = None
        return output if self.dropped else self.added(output, seen)


def relu(x: Tensor) -> Tensor:
    return F.relu(x)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "gelu": gelu,
    "silu": F.silu,
    "identity": identity,
}


class Flow:
    """The input and the output of each module in one forward in evaluation mode."""

    def __init__(self, network: Network):
        self.inputs: dict[nn.Module, Any] = {}
        self.outputs: dict[nn.Module, Any] = {}
        if on_meta_device(network):
            return
        handles = []
        for module in network.backbone.modules():
            if not isinstance(module, nn.Identity):
                handles.append(module.register_forward_hook(self.note))
        try:
            with torch.no_grad(), trial_forward(network):
                network(network.example())
        finally:
            for handle in handles:
                handle.remove()

    def note(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.inputs[module] = args[0] if args else None
        self.outputs[module] = output[0] if isinstance(output, tuple) else output

    def dropout_after(self, layer: nn.Module) -> nn.Module:
        """The dropout whose input is a layer's output, else the layer itself: the place before
        layer scale, drop path and sum."""
        output = self.outputs.get(layer)
        for module, value in self.inputs.items():
            if isinstance(module, nn.Dropout) and value is output and output is not None:
                return module
        return layer

    def last_norm(self, block: nn.Module, norms: Iterable[nn.Module]) -> nn.Module | None:
        """The norm whose output is the block's output, None if there is none."""
        output = self.outputs.get(block)
        if output is None:
            return None
        return next((norm for norm in norms if self.outputs.get(norm) is output), None)
