"""The networks that methods request by name: second trained ones, frozen copies, those of other
runs."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from foundation.errors import UserError, nearest
from recipes.networks.requests import NetworkRequest, Reference, Snapshot, Twin
from recipes.services.teacher import TensorPairs, copy_sharing_frozen

M = TypeVar("M", bound=nn.Module)


class NamedNetworks(nn.Module):
    """`networks[NAME]`: a network of `Declaration.networks`.

    trained: twins, in training mode while the run trains. frozen: snapshots, always in evaluation
    mode. Both are part of checkpoints; networks of other runs are loaded at their first use.

    network: the trained network, complete. make: a network as it was before training, by name.
    load: what answers for another run.
    """

    def __init__(
        self,
        requests: Mapping[str, NetworkRequest],
        network: nn.Module,
        make: Callable[[str], nn.Module],
        load: Callable[[Reference], Any],
    ):
        super().__init__()
        self.trained = nn.ModuleDict()
        self.frozen = nn.ModuleDict()
        self._requests = dict(requests)
        self._load = load
        # not registered: their weights belong to other runs
        self._loaded: dict[str, Any] = {}
        for name, request in requests.items():
            if isinstance(request, Twin):
                self.trained[name] = twin_of(network, make(name))
            elif isinstance(request, Snapshot):
                self.frozen[name] = copy_sharing_frozen(network).eval()

    def __contains__(self, name: object) -> bool:
        return name in self._requests

    def __getitem__(self, name: str) -> Any:
        for kind in (self.trained, self.frozen):
            if name in kind:
                return kind[name]
        request = self._requests.get(name)
        if not isinstance(request, Reference):
            raise KeyError(
                f"no method declares a network '{name}'; {nearest(name, self._requests)}"
            )
        if name not in self._loaded:
            self._loaded[name] = self._load(request)
        return self._loaded[name]

    def forget(self, name: str) -> None:
        """Give the memory of another run's network back, until it is used again."""
        self._loaded.pop(name, None)

    def train(self, mode: bool = True) -> "NamedNetworks":
        super().train(mode)
        self.frozen.eval()
        return self

    def refresh(self, name: str, network: nn.Module) -> None:
        """Copy the weights and buffers of the trained network into a snapshot."""
        if name not in self.frozen:
            raise KeyError(f"no method declares a snapshot '{name}'")
        pairs = TensorPairs(self.frozen[name], network)
        with torch.no_grad():
            for mine, yours in (pairs.parameters, pairs.floating, pairs.counting):
                if mine:
                    torch._foreach_copy_(mine, yours)


def twin_of(network: M, fresh: nn.Module) -> M:
    """A network of the same structure with the values of `fresh`, which was made as `network` was,
    from other random numbers. What only `network` has, as a head that a method put in, starts as
    it does there. Frozen parameters with equal values, as those of pretrained weights, are shared.
    """
    twin = copy.deepcopy(network)
    # they scale the gradients of the run's own network
    cast(Any, twin).gates = None
    for mine, own in zip(twin.parameters(), network.parameters(), strict=True):
        mine.__dict__.update(own.__dict__)  # factors of the learning rate, which a copy lacks
    for module, other in _common(twin, fresh):
        values = dict(_tensors(other))
        for name, tensor in _tensors(module):
            value = values.get(name)
            if value is not None and value.shape == tensor.shape:
                tensor.data.copy_(value)
    for module, other in _common(twin, network):
        for name, parameter in module.named_parameters(recurse=False):
            original = other.get_parameter(name)
            if not parameter.requires_grad and torch.equal(parameter, original):
                module._parameters[name] = original
    return twin


def _common(one: nn.Module, other: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Modules of one path and class."""
    others = dict(other.named_modules())
    for path, module in one.named_modules():
        found = others.get(path)
        # by name: classes with parametrizations are made for each module
        if found is not None and type(found).__qualname__ == type(module).__qualname__:
            yield module, found


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own parameters and buffers."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def check_classes(
    request: Reference, theirs: Mapping[str, Any], ours: Mapping[str, list[str]]
) -> None:
    """Raise UserError if another run has other classes than this one. Both: names by task."""
    for task, classes in ours.items():
        if list(theirs.get(task, ())) != classes:
            raise UserError(
                request.key,
                f"the classes of task '{task}' in '{request.run}' differ from those of the data",
                "name a run of these classes",
            )
