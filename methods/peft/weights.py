"""Changes of a frozen layer's weight: W x → W x + ΔW x, and back into W where that is wanted.

A change is attached as a hook on the layer, so the module tree, its names and its types stay what
they were and no gradient of W is ever formed. Some networks read `layer.weight` instead of calling
the layer (Swin-V2, BEiT, fused attention of torch): a hook is never run there, and nobody would
notice. Such layers get W + ΔW as a parametrisation of their weight, which costs a gradient of W's
size. Which layers are called is found out by running the network.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foundation.errors import UserError
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.sites import Site
from recipes.networks.network import Network


class WeightDelta(nn.Module):
    """ΔW of one layer, or of some rows of a fused one. A subclass gives `weight`, ΔW itself in
    float32, and `forward`, ΔW x computed in the cheap way; it may give `added`, cheaper still."""

    def __init__(self, site: Site):
        super().__init__()
        self.site = site.name
        self.rows = site.rows
        self.outputs = len(site.module.weight)

    def weight(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} gives no weight")

    def placed(self) -> Tensor:
        """ΔW in the shape of the layer's weight."""
        change = self.weight()
        return (
            change
            if self.rows is None
            else F.pad(change, (0, 0, self.rows[0], self.outputs - self.rows[1]))
        )

    def changed(self, weight: Tensor) -> Tensor:
        """The layer's weight with this change: W + ΔW, unless a subclass does more than add."""
        return weight + self.placed().to(weight.dtype)

    @staticmethod
    def added(deltas: Sequence[Any], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """A layer's output with ΔW x of all these deltas of it, which are of one class."""
        for delta in deltas:
            change = delta(x, layer).to(output.dtype)
            if delta.rows is not None:
                change = F.pad(change, (delta.rows[0], delta.outputs - delta.rows[1]))
            output = output + change
        return output


class Hooked:
    """The hook of deltas that act on one layer, parts of a fused one for example."""

    def __init__(self, deltas: Sequence[WeightDelta]):
        self.deltas = list(deltas)

    def add(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.deltas[0].added(self.deltas, layer, args[0], output)


class Added(nn.Module):
    """The parametrisation W → W + ΔW, or what else the delta makes of W. It lies elsewhere in the
    network and is only looked up."""

    def __init__(self, delta: WeightDelta):
        super().__init__()
        self.delta = (delta,)

    def forward(self, weight: Tensor) -> Tensor:
        return self.delta[0].changed(weight)


def uncalled(network: Network, layers: Iterable[nn.Module]) -> set[nn.Module]:
    """Which of these modules are not run in training mode, or not in evaluation: hooks on them
    would be idle."""
    left = {module: {True, False} for module in layers}
    if on_meta_device(network):
        return set()
    example = network.example()

    def seen(module: nn.Module, args: Any) -> None:
        left[module].discard(mode)

    handles = [module.register_forward_pre_hook(seen) for module in left]
    try:
        with torch.no_grad(), trial_forward(network):
            for mode in (False, True):
                network.train(mode)
                network(example)
    finally:
        for handle in handles:
            handle.remove()
    return {module for module, modes in left.items() if modes}


def attach(network: Network, deltas: Iterable[WeightDelta]) -> None:
    """Let every delta act on the layer of its site."""
    layers: dict[nn.Module, list[WeightDelta]] = {}
    for delta in deltas:
        layers.setdefault(network.backbone.get_submodule(delta.site), []).append(delta)
    silent = uncalled(network, layers)
    for layer, own in layers.items():
        connect(own, layer, parametrised=layer in silent)


def connect(deltas: Iterable[WeightDelta], layer: nn.Module, parametrised: bool) -> None:
    if parametrised:
        for delta in deltas:
            parametrize.register_parametrization(layer, "weight", Added(delta))
        return
    for _, alike in groupby(deltas, type):
        layer.register_forward_hook(Hooked(list(alike)).add)


def disconnect(layer: nn.Module) -> tuple[list[WeightDelta], bool]:
    """Take all weight deltas off a layer, in the order they were attached; and whether they were
    parametrisations."""
    if parametrize.is_parametrized(layer, "weight"):
        deltas = [added.delta[0] for added in layer.parametrizations.weight]
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        return deltas, True
    hooks = {key: getattr(hook, "__self__", None) for key, hook in layer._forward_hooks.items()}
    mine = {key: owner for key, owner in hooks.items() if isinstance(owner, Hooked)}
    for key in mine:
        del layer._forward_hooks[key]
    return [delta for owner in mine.values() for delta in owner.deltas], False


def is_mergeable(module: nn.Module) -> bool:
    """Whether weights can take up everything that a method added."""
    return isinstance(module, nn.ModuleList) and all(
        isinstance(delta, WeightDelta) for delta in module
    )


@torch.no_grad()
def merge(network: Network, *keys: str) -> Callable[[], None]:
    """W ← W + ΔW for the deltas of these methods, or of all: computed in float32, the deltas are
    gone afterwards, and names and types of the network's modules are those of a network without
    them.

    Returns what undoes it exactly: the former weights come back, nothing is subtracted. Raises
    UserError where something was added that no weight can take up.
    """
    modules = {key: network.deltas[key] for key in keys or network.deltas.keys()}
    for key, module in modules.items():
        if not is_mergeable(module):
            raise UserError(
                f"methods.{key}: what it adds cannot be merged into weights; keep the network as "
                "it is"
            )
    deltas = {
        delta
        for module in modules.values()
        for delta in module.children()
        if isinstance(delta, WeightDelta)
    }
    names = dict.fromkeys(delta.site for module in modules.values() for delta in module.children())
    undo = [_merge_layer(network.backbone.get_submodule(str(name)), deltas) for name in names]
    for key in modules:
        del network.deltas[key]

    def restore() -> None:
        network.deltas.update(modules)
        for back in undo:
            back()

    return restore


def _merge_layer(layer: nn.Module, chosen: set[WeightDelta]) -> Callable[[], None]:
    attached, parametrised = disconnect(layer)
    before = layer.weight
    total = before.float()
    for delta in attached:
        if delta in chosen:
            total = delta.changed(total)
    layer.weight = nn.Parameter(total.to(before.dtype), requires_grad=before.requires_grad)
    connect([delta for delta in attached if delta not in chosen], layer, parametrised)

    def restore() -> None:
        disconnect(layer)
        layer.weight = before
        connect(attached, layer, parametrised)

    return restore
