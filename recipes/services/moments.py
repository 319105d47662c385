"""BatchNorm moments for an EMA network.

The running mean and variance from training belong to another network (the raw one, some steps ago)
on other inputs. EMA weights evaluated with them can be far worse than the raw network. So before an
EMA network is evaluated, its moments are estimated on a few training batches, forwarded as in
training: labeled samples, weak and strong views together.

Clean samples alone are not enough: heads and later layers were trained on features normalized by
the moments of that mixture. On photographs with 43 classes, moments of clean samples cost 5 points
of accuracy and those of the mixture none; on digits both are equal (docs/results.md).
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
KINDS = ("mean", "variance", "batches")  # their names here, in checkpoints too


def estimated_layers(network: nn.Module) -> list[_BatchNorm]:
    """The layers whose running statistics training updates; frozen layers, in evaluation mode, keep
    theirs."""
    layers = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [layer for layer in layers if layer.track_running_stats and layer.training]


class Moments(nn.Module):
    """μ and σ² of every BatchNorm layer of `network`, [channels] each, in addition to the layers'
    own.

    They are buffers and therefore part of checkpoints. `known` is False until they have been
    estimated; until then, and in runs whose checkpoint has none, the layers' own are used.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        # a plain list: the layers belong to the network, not to this module
        self.layers = estimated_layers(network)
        for i, layer in enumerate(self.layers):
            for name, buffer in zip(KINDS, STATISTICS, strict=True):
                self.register_buffer(f"{name}_{i}", torch.zeros_like(layer.get_buffer(buffer)))
        self.known = False
        # layers that training does not update at present
        self.resting: set[nn.Module] = set()

    def of(self, i: int) -> list[Tensor]:
        """Mean, variance and number of batches, in the order of `STATISTICS`."""
        return [self.get_buffer(f"{name}_{i}") for name in KINDS]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The layers have these moments inside the block, and their own afterwards. Tensors are
        swapped, not copied."""
        before = []
        for i, layer in enumerate(self.layers):
            before.append({name: layer._buffers[name] for name in STATISTICS})
            layer._buffers.update(zip(STATISTICS, self.of(i), strict=True))
        try:
            yield
        finally:
            for layer, own in zip(self.layers, before, strict=True):
                layer._buffers.update(own)

    @torch.no_grad()
    def estimate(self, network: Network, batches: Iterable[Embedded]) -> None:
        """Mean over batches of their mean and of their unbiased variance, per layer; all other
        modules are in evaluation mode.

        Every rank forwards the same samples, so that all ranks have the same moments."""
        modes = {module: module.training for module in network.modules()}
        network.eval()
        momenta = [layer.momentum for layer in self.layers]
        self._take_resting()
        estimated = [layer for layer in self.layers if layer not in self.resting]
        try:
            # modes change here, and a compiled network would be recompiled
            with self.installed(), torch.compiler.set_stance("force_eager"):
                for layer in estimated:
                    layer.reset_running_stats()
                    layer.training = True
                for done, embedded in enumerate(batches):
                    for layer in estimated:
                        # the mean over batches; torch's own, momentum=None, is a device sync
                        layer.momentum = 1 / (done + 1)
                    network(embedded)
        finally:
            for layer, momentum in zip(self.layers, momenta, strict=True):
                layer.momentum = momentum
            for module, training in modes.items():
                module.training = training
        self.known = True

    def _take_resting(self) -> None:
        """A layer that rests has its own statistics here, as in training."""
        for i, layer in enumerate(self.layers):
            if layer in self.resting:
                mean, variance, batches = self.of(i)
                mean.copy_(layer.get_buffer("running_mean"))
                variance.copy_(layer.get_buffer("running_var"))
                batches.fill_(1)

    @torch.no_grad()
    def settle(self) -> None:
        """Copy these moments into the layers: for a network that is not trained any further."""
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
            del missing[before:]  # a checkpoint of a version that did not estimate them
        counts = [state_dict.get(f"{prefix}batches_{i}") for i in range(len(self.layers))]
        self.known = bool(counts) and all(count is not None and int(count) > 0 for count in counts)


def moment_names(module: nn.Module) -> Iterator[str]:
    """Names of all such moments in the state of `module`."""
    for path, child in module.named_modules():
        if isinstance(child, Moments):
            yield from (f"{path}.{name}" for name, _ in child.named_buffers())
