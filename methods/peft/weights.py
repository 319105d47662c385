"""Changes of a frozen layer's weight: W x → W x + ΔW x, and merging them into W.

A change is attached as a hook on the layer, so the module tree, its names and its types stay the
same and no gradient of W is ever computed. Some networks read `layer.weight` instead of calling the
layer (Swin-V2, BEiT, fused attention of torch): there a hook would silently never run. Such layers
get W + ΔW as a parametrisation of their weight, which costs a gradient of W's size. Which layers
are called is determined by running the network.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foundation.errors import UserError
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.sites import Site, is_transposed, oriented
from recipes.networks.network import Network


class WeightDelta(nn.Module):
    """ΔW of one layer, or of some rows of a fused one.

    A subclass implements `weight`, ΔW itself in float32, and `forward`, ΔW x without computing ΔW.
    It may override `added`, for several deltas of one layer at once.

    materialised: there is no shorter way than to compute the changed weight, so the layer's weight
        is always parametrised; the subclass implements `changed` alone.
    """

    materialised: ClassVar[bool] = False

    def __init__(self, site: Site):
        super().__init__()
        self.site = site.name
        self.rows = site.rows
        self.outputs = len(site.weight)
        self.transposed = is_transposed(site.module)

    def weight(self) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not implement weight")

    def placed(self) -> Tensor:
        """ΔW in the shape of the layer's weight."""
        change = self.weight()
        if self.rows is None:
            return change
        start, stop = self.rows
        return F.pad(change, (0, 0, start, self.outputs - stop))

    def changed(self, weight: Tensor) -> Tensor:
        """The layer's weight with this change: W + ΔW, unless a subclass does more than add."""
        return weight + self.placed().to(weight.dtype)

    def shift(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The change of the layer's bias, [d_out]; None: there is none. weight, bias: the layer's
        own. A subclass that implements it needs a layer that is called."""
        return None

    @classmethod
    def added(cls, deltas: Sequence[Self], layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """A layer's output plus ΔW x of all these deltas of it, which have the same class."""
        for delta in deltas:
            change = delta(x, layer).to(output.dtype)
            if delta.rows is not None:
                change = F.pad(change, (delta.rows[0], delta.outputs - delta.rows[1]))
            output = output + change
        return output


class Hooked:
    """The hook of all deltas of one layer, e.g. of the parts of a fused one."""

    def __init__(self, deltas: Sequence[WeightDelta]):
        self.deltas = list(deltas)

    def add(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.deltas[0].added(self.deltas, layer, args[0], output)


class Shifted:
    """The hook that adds a delta's `shift` to the output of its layer."""

    def __init__(self, delta: WeightDelta):
        self.delta = delta

    def add(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shift = self.delta.shift(own_weight(layer), own_bias(layer))
        if shift is None:
            return output
        pixel_axes = [1, 1] if isinstance(layer, nn.Conv2d) else []
        return output + shift.to(output.dtype).view(-1, *pixel_axes)


def own_weight(layer: nn.Module) -> Tensor:
    """The layer's weight without its parametrisations, as [outputs, …]."""
    weight = layer.weight
    if parametrize.is_parametrized(layer, "weight"):
        weight = layer.get_parameter("parametrizations.weight.original")
    assert isinstance(weight, Tensor)
    return oriented(layer, weight)


def own_bias(layer: nn.Module) -> nn.Parameter | None:
    bias = layer.bias
    assert bias is None or isinstance(bias, nn.Parameter)
    return bias


class Added(nn.Module):
    """The parametrisation W → `delta.changed(W)`. The delta is registered elsewhere in the network,
    so it is stored in a tuple, which torch does not register."""

    def __init__(self, delta: WeightDelta):
        super().__init__()
        self.delta = (delta,)

    def forward(self, weight: Tensor) -> Tensor:
        delta = self.delta[0]
        return delta.changed(weight.t()).t() if delta.transposed else delta.changed(weight)


def uncalled(network: Network, layers: Iterable[nn.Module]) -> set[nn.Module]:
    """Which of these modules are not called in training mode, or not in evaluation mode: hooks on
    them would not run."""
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


def attach(network: Network, deltas: Iterable[WeightDelta]) -> list[WeightDelta]:
    """Attach every delta to the layer of its site. Returns those whose layers are never called, so
    that only the layer's weight can be changed."""
    layers: dict[nn.Module, list[WeightDelta]] = {}
    for delta in deltas:
        layers.setdefault(network.backbone.get_submodule(delta.site), []).append(delta)
    silent = uncalled(network, layers)
    for layer, own in layers.items():
        connect(own, layer, parametrised=layer in silent)
    return [delta for layer, own in layers.items() if layer in silent for delta in own]


def connect(deltas: Iterable[WeightDelta], layer: nn.Module, parametrised: bool) -> None:
    for _, alike in groupby(deltas, type):
        own = list(alike)
        kind = own[0].__class__
        if parametrised or kind.materialised:
            for delta in own:
                parametrize.register_parametrization(layer, "weight", Added(delta))
        else:
            layer.register_forward_hook(Hooked(own).add)
        if kind.shift is not WeightDelta.shift and not parametrised:
            for delta in own:
                layer.register_forward_hook(Shifted(delta).add)


def parametrizations(layer: nn.Module) -> list[Added]:
    """The parametrisations of a layer's weight, in the order of registration; all are deltas."""
    by_name = layer.parametrizations
    assert isinstance(by_name, nn.ModuleDict)
    added = []
    for module in by_name["weight"].children():
        assert isinstance(module, Added), f"{type(module).__name__} is not a delta"
        added.append(module)
    return added


def disconnect(layer: nn.Module) -> tuple[list[WeightDelta], bool]:
    """Detach all weight deltas of a layer. Returns them in the order they were attached, and
    whether they were parametrisations."""
    detached: list[WeightDelta] = []
    if parametrize.is_parametrized(layer, "weight"):
        detached = [added.delta[0] for added in parametrizations(layer)]
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    silent = any(not delta.materialised for delta in detached)
    for key, hook in list(layer._forward_hooks.items()):
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, Hooked | Shifted):
            detached += owner.deltas if isinstance(owner, Hooked) else []
            del layer._forward_hooks[key]
    return detached, silent


def is_mergeable(module: nn.Module) -> bool:
    """Whether everything that a method added can be merged into weights."""
    return isinstance(module, nn.ModuleList) and all(
        isinstance(delta, WeightDelta) for delta in module
    )


def weight_deltas(module: nn.Module) -> list[WeightDelta]:
    """The deltas in the list that a method added."""
    return [delta for delta in module.children() if isinstance(delta, WeightDelta)]


@torch.no_grad()
def merge(network: Network, *keys: str) -> Callable[[], None]:
    """W ← W + ΔW for the deltas of these methods, or of all, computed in float32. The deltas are
    removed, and the network's modules have the names and types of a network without them.

    Returns a function that undoes it exactly: it restores the former weights, nothing is
    subtracted. Raises UserError if a method added something that cannot be merged into weights.
    """
    modules = {key: network.deltas[key] for key in keys or network.deltas.keys()}
    for key, module in modules.items():
        if not is_mergeable(module):
            raise UserError(
                f"methods.{key}: what it adds cannot be merged into weights; use the network "
                "without merging"
            )
    deltas: list[WeightDelta] = []
    for module in modules.values():
        deltas += weight_deltas(module)
    # in the order of attachment, each layer once
    sites = dict.fromkeys(delta.site for delta in deltas)
    chosen = set(deltas)
    undo = [_merge_layer(network.backbone, site, chosen) for site in sites]
    for key in modules:
        del network.deltas[key]

    def restore() -> None:
        network.deltas.update(modules)
        for back in undo:
            back()

    return restore


@runtime_checkable
class PackedLayer(Protocol):
    """A layer whose weight cannot be changed in place."""

    def whole(self) -> nn.Module:
        """The same layer with a weight that can."""
        ...


def _merge_layer(backbone: nn.Module, site: str, chosen: set[WeightDelta]) -> Callable[[], None]:
    stored = backbone.get_submodule(site)
    attached, parametrised = disconnect(stored)
    layer = stored.whole() if isinstance(stored, PackedLayer) else stored
    if layer is not stored:
        backbone.set_submodule(site, layer)
    before = layer.weight
    assert isinstance(before, Tensor)
    former_bias = own_bias(layer)
    total = oriented(layer, before.float())
    bias: Tensor | None = former_bias
    for delta in attached:
        if delta in chosen:
            shift = delta.shift(total, bias)
            if shift is not None:
                bias = shift if bias is None else bias.float() + shift
            total = delta.changed(total)
    merged = oriented(layer, total).to(before.dtype).contiguous()
    layer.weight = nn.Parameter(merged, requires_grad=before.requires_grad)
    if bias is not former_bias and bias is not None:
        shifted = nn.Parameter(bias.to(before.dtype), requires_grad=before.requires_grad)
        layer.register_parameter("bias", shifted)
    connect([delta for delta in attached if delta not in chosen], layer, parametrised)

    def restore() -> None:
        disconnect(layer)
        if layer is not stored:
            backbone.set_submodule(site, stored)
            connect(attached, stored, parametrised)
            return
        layer.weight = before
        layer.register_parameter("bias", former_bias)
        connect(attached, layer, parametrised)

    return restore
