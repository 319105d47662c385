"""BatchNorm moments of an averaged network's own.

The running mean and variance that training gathers are those of another network (the raw one, some
steps ago) on other inputs. Averaged weights evaluated with them can be far worse than the raw
network. So before an averaged network is evaluated, its moments are estimated on a few training
batches, forwarded as training forwards them: labeled samples, weak and strong views together.

Why not on clean samples alone: heads and later layers have learnt on features that were normalised
by the moments of that mixture. On photographs with 43 classes, moments of clean samples cost 5
points where those of the mixture cost none; on digits both are equal (docs/results.md).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from recipes.networks.network import Network
from recipes.step.step import Embedded

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of a BatchNorm layer
KINDS = ("mean", "variance", "batches")  # what they are called here


def estimated_layers(network: nn.Module) -> list[_BatchNorm]:
    """The layers whose running statistics training gathers; frozen ones, in evaluation mode, keep
    what they have."""
    layers = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [layer for layer in layers if layer.track_running_stats and layer.training]


class Moments(nn.Module):
    """μ and σ² of every BatchNorm layer of `network`, [channels] each, beside those that its layers
    hold.

    They are buffers, so that a checkpoint keeps them. `known` is False until they have been
    estimated; the layers' own statistics are used until then, and in runs whose checkpoint has
    none.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        # a plain list: the layers belong to the network, not to this module
        self.layers = estimated_layers(network)
        for i, layer in enumerate(self.layers):
            for name, buffer in zip(KINDS, STATISTICS, strict=True):
                self.register_buffer(f"{name}_{i}", torch.zeros_like(layer.get_buffer(buffer)))
        self.known = False

    def of(self, i: int) -> list[Tensor]:
        """Mean, variance and the number of batches behind them, in the order of `STATISTICS`."""
        return [self.get_buffer(f"{name}_{i}") for name in KINDS]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The layers hold these moments; afterwards their own again. Tensors change places, nothing
        is copied."""
        before = [[layer._buffers[name] for name in STATISTICS] for layer in self.layers]
        for i, layer in enumerate(self.layers):
            layer._buffers.update(zip(STATISTICS, self.of(i), strict=True))
        try:
            yield
        finally:
            for layer, own in zip(self.layers, before, strict=True):
                layer._buffers.update(zip(STATISTICS, own, strict=True))

    @torch.no_grad()
    def estimate(self, network: Network, batches: Iterable[Embedded]) -> None:
        """Mean over batches of their mean and of their unbiased variance, layer by layer, all else
        in evaluation mode.

        Every rank goes through the same samples, so that all of them find what one would."""
        modes = {module: module.training for module in network.modules()}
        network.eval()
        momenta = [layer.momentum for layer in self.layers]
        try:
            # modes change here, for which a compiled network would be compiled anew
            with self.installed(), torch.compiler.set_stance("force_eager"):
                for layer in self.layers:
                    layer.reset_running_stats()
                    layer.training = True
                for done, embedded in enumerate(batches):
                    for layer in self.layers:
                        # the plain mean over batches; torch's own, momentum=None, waits for the
                        # device
                        layer.momentum = 1 / (done + 1)
                    network(embedded)
        finally:
            for layer, momentum in zip(self.layers, momenta, strict=True):
                layer.momentum = momentum
            for module, training in modes.items():
                module.training = training
        self.known = True

    @torch.no_grad()
    def settle(self) -> None:
        """The layers take these moments over for good: for a network that is not trained any
        more."""
        for i, layer in enumerate(self.layers if self.known else ()):
            for name, value in zip(STATISTICS, self.of(i), strict=True):
                layer._buffers[name].copy_(value)  # type: ignore[union-attr]

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: list[str],
        *rest: Any,
    ) -> None:
        before = len(missing)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)
        absent = [name for name in missing[before:] if name.startswith(prefix)]
        if len(absent) == 3 * len(self.layers):
            del missing[before:]  # a run of a version that did not estimate them
        counts = [state_dict.get(f"{prefix}batches_{i}") for i in range(len(self.layers))]
        self.known = bool(counts) and all(count is not None and int(count) > 0 for count in counts)


def moment_names(module: nn.Module) -> Iterator[str]:
    """Names of all such moments in the state of `module`."""
    for path, child in module.named_modules():
        if isinstance(child, Moments):
            yield from (f"{path}.{name}" for name, _ in child.named_buffers())
