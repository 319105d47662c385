"""Cutting a backbone into layers that can be copied for every task, without knowing its family.

A timm backbone calls its top-level layers one after the other; each maps one tensor with the batch
in front to another. So T columns can run in lock-step inside the backbone's *own* forward: their
tensors are concatenated along the batch, [T·N, …], and every layer is replaced by `Columns`, which
gives each part to a copy of its own. Positions, class tokens, pooling and whatever else the forward
does between layers see a larger batch and nothing more. Parameters of the backbone itself (a class
token, positions) are shared by all columns.

Whether a backbone is of this kind is tried, not looked up: one forward before and after must agree.
"""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.randomness import generator
from recipes.networks.network import Network, eval_mode

# a transformer names each of its blocks a stage: more than MANY are thinned out to FEW
MANY = 6
FEW = 4
TRIED = "resnet18, convnext_atto, swin_tiny_patch4_window7_224, vit_tiny_patch16_224, digits_cnn"


def not_in_place(module: nn.Module) -> None:
    """Make every activation leave its input as it is."""
    for layer in module.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]


@dataclass(frozen=True)
class Layer:
    """A layer that the backbone calls: its name, what it returned for two pictures, whether a stage
    ends with it."""

    name: str
    module: nn.Module
    output: Tensor
    ends_stage: bool

    @property
    def trained(self) -> bool:
        return next(self.module.parameters(), None) is not None


def parts_of(x: Tensor, count: int) -> Sequence[Tensor]:
    """[count · N, …] as `count` tensors [N, …]; unlike with `chunk`, N stays dynamic in a traced
    network."""
    return x.unflatten(0, (count, -1)).unbind()


class Columns(nn.Module):
    """T copies of a layer, each on its part of the batch: [T·N, …] -> [T·N, …].

    enter: this is the first layer of the columns, and all copies take the same [N, …]. mix: what is
    computed between the columns' outputs, list of T to list of T. Attributes that a backbone reads
    of the layer (a patch size) are those of the first copy.
    """

    def __init__(
        self, layer: nn.Module, count: int, enter: bool = False, mix: nn.Module | None = None
    ):
        super().__init__()
        # deepcopy takes what is in its memo as copied already: frozen weights are one for all
        frozen = {id(p): p for p in layer.parameters() if not p.requires_grad}
        copies = [copy.deepcopy(layer, memo=dict(frozen)) for _ in range(count - 1)]
        self.copies = nn.ModuleList([layer, *copies])
        self.enter = enter
        self.mix = mix
        not_in_place(self.copies)  # columns are views of one tensor, or all take the same

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "copies":
                raise
            return getattr(self.copies[0], name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count = len(self.copies)
        parts = [x] * count if self.enter else parts_of(x, count)
        outputs = []
        for layer, part in zip(self.copies, parts, strict=True):
            outputs.append(layer(part, *args, **kwargs))
        if self.mix is not None:
            outputs = self.mix(outputs)
        return torch.cat(outputs)


class ByTask(nn.Module):
    """The features of a trunk of T columns, [T·N, D], by task: [N, D] each."""

    def __init__(self, trunk: nn.Module, tasks: Sequence[str]):
        super().__init__()
        self.trunk = trunk
        self.tasks = tuple(tasks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        columns = parts_of(self.trunk(x), len(self.tasks))
        return dict(zip(self.tasks, columns, strict=True))


def sample(network: Network) -> Tensor:
    """Two pictures [2, C, H, W], in values and size as the backbone sees them."""
    size = getattr(network, "input_size", None) or (64, 64)
    mean = network.mean
    assert isinstance(mean, Tensor)
    pictures = torch.randn(2, mean.shape[1], *size, generator=generator("stages"))
    first = next(network.parameters())
    return pictures.to(first.device, first.dtype)


def forward_of(backbone: nn.Module, x: Tensor) -> Any:
    """What the backbone returns for x in evaluation mode, without gradient."""
    with torch.no_grad(), eval_mode(backbone):
        return backbone(x)


def named_stages(backbone: nn.Module) -> list[str]:
    """Names of the layers that end a stage, by timm's `feature_info`; many are thinned out to
    four."""
    names = [str(info["module"]) for info in getattr(backbone, "feature_info", [])]
    if len(names) > MANY:
        names = [names[(i + 1) * len(names) // FEW - 1] for i in range(FEW)]
    return names


def top_level_layers(backbone: nn.Module, stages: Sequence[str]) -> dict[str, nn.Module]:
    """The backbone's children by name; lists, and children that contain stages, are replaced by
    their own children."""
    layers = {}
    waiting = list(backbone.named_children())
    while waiting:
        name, module = waiting.pop(0)
        children = [(f"{name}.{child}", layer) for child, layer in module.named_children()]
        contains_stage = any(stage.startswith(f"{name}.") for stage in stages)
        if children and (isinstance(module, nn.ModuleList) or contains_stage):
            waiting = children + waiting
        else:
            layers[name] = module
    return layers


class _Recorder:
    """Forward hooks that note the layers a backbone calls, in order. unusable: names of layers that
    are no map of one tensor to one, or are called again."""

    def __init__(self, stages: Sequence[str]):
        self.stages = stages
        self.layers: dict[str, Layer] = {}
        self.unusable: list[str] = []

    def record(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if is_batch(output) and inputs and is_batch(inputs[0]) and name not in self.layers:
            self.layers[name] = Layer(name, module, output, name in self.stages)
        elif name in self.stages or next(module.parameters(), None) is not None:
            # one without weights (a reshape, a dropout) need not be copied, and may do as it likes
            self.unusable.append(name)


def is_batch(x: Any) -> bool:
    """Whether this is a tensor with the two pictures of `sample` in front, [2, …]."""
    return isinstance(x, Tensor) and x.ndim > 1 and len(x) == 2


def layers_of(network: Network, option: str) -> list[Layer]:
    """The layers that the backbone calls, in order. Raises UserError where one with weights is no
    map of one tensor, called once."""
    backbone = network.backbone
    recorder = _Recorder(named_stages(backbone))
    with ExitStack() as hooks:
        for name, module in top_level_layers(backbone, recorder.stages).items():
            hook = module.register_forward_hook(partial(recorder.record, name))
            hooks.callback(hook.remove)
        try:
            forward_of(backbone, sample(network))
        except RuntimeError as error:
            reason = "pictures of 64x64 are too small; set network.input_size"
            raise unstageable(option, reason) from error
    if recorder.unusable:
        name = recorder.unusable[0]
        raise unstageable(option, f"its layer '{name}' takes or gives more than one tensor")
    layers = list(recorder.layers.values())
    if not any(layer.ends_stage for layer in layers):
        raise unstageable(option, "no stages")
    return layers


def unstageable(option: str, reason: str) -> UserError:
    return UserError(
        f"{option} cannot cut network.name into stages ({reason}): expected one like {TRIED}"
    )


def channel_axis(backbone: nn.Module, output: Tensor) -> int:
    """The axis of the channels: the last of tokens [N, L, C] and of pictures whose model says NHWC,
    else the second."""
    channels_last = output.ndim == 3 or getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return output.ndim - 1 if channels_last else 1


def install(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the layer called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, layer)


def split_into_columns(
    network: Network,
    tasks: Sequence[str],
    layers: Sequence[Layer],
    mixes: dict[str, nn.Module],
    option: str,
) -> None:
    """Give every task its own copy of these last layers of the backbone, which then returns
    features by task.

    mixes: what is computed between the columns, by the name of the layer it follows. Raises
    UserError where the result is another function; mixing must leave equal columns as they are.
    """
    trunk = network.backbone
    x = sample(network)
    before = forward_of(trunk, x)
    enter = True
    for layer in layers:
        mix = mixes.get(layer.name)
        if layer.trained or mix is not None or enter:
            install(trunk, layer.name, Columns(layer.module, len(tasks), enter, mix))
            enter = False
    network.backbone = ByTask(trunk, tasks)
    try:
        after = forward_of(network.backbone, x)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise unstageable(option, str(error).strip().split("\n")[0]) from error
    if not all(agrees(features, before) for features in after.values()):
        raise unstageable(option, "in columns it computes something else")


def agrees(features: Tensor, expected: Tensor) -> bool:
    """Whether they have one shape and differ by at most 1e-4 of the largest entry."""
    if features.shape != expected.shape:
        return False
    scale = expected.abs().max().clamp_min(1e-6)
    return not bool((features - expected).abs().max() > 1e-4 * scale)
