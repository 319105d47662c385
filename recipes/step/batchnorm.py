"""Layers that normalize with statistics of the batch: find them, and freeze their statistics."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# timm's EvoNorm-B layers use the variance of the batch in training mode, but are no torch BatchNorm
_EVO_NORMS = ("EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2")


def batch_normalizations(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that normalize with statistics of the batch in training mode."""
    # a network without timm imported has no layers of timm
    timm_layers = sys.modules.get("timm.layers")
    kinds = (_BatchNorm, *(getattr(timm_layers, name) for name in _EVO_NORMS if timm_layers))
    return [module for module in network.modules() if isinstance(module, kinds)]


def use_batch_statistics(layers: Iterable[nn.Module]) -> bool:
    """Whether outputs depend, in the current mode, on which samples share a forward: one of these
    layers is in training mode or has no running statistics. Two inputs then have other outputs in
    one forward than in two."""
    return any(layer.training or getattr(layer, "running_var", None) is None for layer in layers)


HORIZON = 0.05  # share of a run that running statistics may cover
USUAL = 0.1  # torch's momentum: no layer needs a quicker one


def least_momentum(total_steps: int) -> float:
    """The smallest momentum of running statistics that is quick enough for a run: 1/(HORIZON ·
    total_steps), at most USUAL."""
    return min(USUAL, 1.0 / (HORIZON * total_steps)) if total_steps else 0.0


def slow_layers(network: nn.Module, total_steps: int) -> list[_BatchNorm]:
    """The layers with a smaller momentum. A momentum of None is a mean over all steps."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    least = least_momentum(total_steps)
    return [layer for layer in layers if layer.momentum is not None and layer.momentum < least]


def fit_statistics_to_run(network: nn.Module, total_steps: int) -> None:
    """Raise the momentum of layers whose running statistics would be slow for the run.

    The average of a momentum m reaches back about 1/m steps, and its start, mean 0 and variance 1,
    still weighs (1 - m)^steps at the end. FixMatch's m = 0.001 belongs to a million steps; after a
    hundred, nine tenths of it are the start, and evaluation is at chance level."""
    for layer in slow_layers(network, total_steps):
        layer.momentum = least_momentum(total_steps)


def copied_buffers(layer: nn.Module) -> dict[str, Tensor | None]:
    """A layer's buffers for a forward whose updates are discarded."""
    return {
        name: None if value is None else value.clone() for name, value in layer._buffers.items()
    }


class BatchNorms:
    """The batch normalizations of a network, found once."""

    def __init__(self, network: nn.Module):
        self.layers = batch_normalizations(network)
        # torch's layers can stop tracking at no cost; but a backward that recomputes a forward
        # needs the same tensors as in any other forward
        recomputes = getattr(network, "recomputes", False)
        norms = [] if recomputes else self.layers
        self.tracking = [
            layer for layer in norms if isinstance(layer, _BatchNorm) and layer.track_running_stats
        ]
        self.copied = [
            layer for layer in self.layers if recomputes or not isinstance(layer, _BatchNorm)
        ]

    @property
    def use_batch_statistics(self) -> bool:
        """Whether outputs depend, in the current mode, on which samples share a forward."""
        return use_batch_statistics(self.layers)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Normalize with batch statistics in training mode, but do not update running mean,
        variance and count."""
        # saved, not assumed to be on: contexts nest (in a replayed step, an input that does not
        # update statistics)
        tracked = [layer.track_running_stats for layer in self.tracking]
        buffers = [layer._buffers for layer in self.copied]
        for norm in self.tracking:
            norm.track_running_stats = False
        # these update a copy, which is discarded
        for layer in self.copied:
            layer._buffers = copied_buffers(layer)
        try:
            yield
        finally:
            for norm, on in zip(self.tracking, tracked, strict=True):
                norm.track_running_stats = on
            for layer, own in zip(self.copied, buffers, strict=True):
                layer._buffers = own
