"""Control over the running statistics of batch normalisation."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorms:
    """The batch normalisations of a network (1d, 2d, 3d and synchronised), found once."""

    def __init__(self, network: nn.Module):
        self.layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self.tracking = [layer for layer in self.layers if layer.track_running_stats]

    @property
    def use_batch_statistics(self) -> bool:
        """Whether outputs depend, at present, on which samples share a forward."""
        return any(layer.training or layer.running_mean is None for layer in self.layers)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Normalise with batch statistics in training mode, but leave running mean, variance and
        count untouched.

        Turning the tracking off for the time does exactly this; saving and restoring the buffers
        would cost copies.
        """
        # a replayed step freezes around everything, and an uncounted input within it once more
        before = [layer.track_running_stats for layer in self.tracking]
        for layer in self.tracking:
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer, tracked in zip(self.tracking, before, strict=True):
                layer.track_running_stats = tracked
