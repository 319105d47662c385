"""Cutting a backbone into layers that can be copied for every task, without knowing its family.

A timm backbone calls its top-level layers one after the other, each from one tensor with the batch
in front to another. So T columns can run in lock-step inside the backbone's *own* forward: their
tensors lie behind one another, [T·N, …], and every layer is replaced by `Columns`, which gives each
part to a copy of its own. Positions, class tokens, pooling and whatever else the forward does
between layers see a larger batch and nothing more. What the backbone holds itself (a class token,
positions) stays one for all columns.

Whether a backbone is of this kind is tried, not looked up: one forward before and after must agree.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.randomness import generator
from recipes.networks.network import Network

MANY = 6  # stages; a transformer names each of its blocks one, and is then cut into
FEW = 4
TRIED = "resnet18, convnext_atto, swin_tiny_patch4_window7_224, vit_tiny_patch16_224, digits_cnn"
Mix = Callable[[list[Tensor]], list[Tensor]]


def not_in_place(module: nn.Module) -> None:
    """Let no activation overwrite what it is given."""
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
    """[count · N, …] as `count` tensors [N, …]; unlike `chunk` it leaves N open where a network is
    traced."""
    return x.unflatten(0, (count, -1)).unbind()


class Columns(nn.Module):
    """T copies of a layer, each on its part of the batch: [T·N, …] -> [T·N, …].

    enter: the first layer of the columns, all copies take the same [N, …]. mix: what happens
    between the columns' outputs. A backbone may ask a layer for its settings (a patch size): the
    first copy answers.
    """

    def __init__(
        self, layer: nn.Module, count: int, enter: bool = False, mix: nn.Module | None = None
    ):
        super().__init__()
        # frozen weights are one for all
        frozen = {id(p): p for p in layer.parameters() if not p.requires_grad}
        self.copies = nn.ModuleList(
            [layer, *(copy.deepcopy(layer, memo=dict(frozen)) for _ in range(count - 1))]
        )
        self.enter, self.mix = enter, mix
        not_in_place(self.copies)  # columns are views of one tensor, or all take the same

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "copies":
                raise
            return getattr(self.copies[0], name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parts = [x] * len(self.copies) if self.enter else parts_of(x, len(self.copies))
        outputs = [
            layer(part, *args, **kwargs) for layer, part in zip(self.copies, parts, strict=True)
        ]
        return torch.cat(self.mix(outputs) if self.mix is not None else outputs)


class ByTask(nn.Module):
    """A trunk that ends in the features of T columns, [T·N, D], as features by task."""

    def __init__(self, trunk: nn.Module, tasks: Sequence[str]):
        super().__init__()
        self.trunk, self.tasks = trunk, tuple(tasks)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.tasks, parts_of(self.trunk(x), len(self.tasks)), strict=True))


def sample(network: Network) -> Tensor:
    """Two pictures, in values and size as the backbone sees them."""
    size = getattr(network, "input_size", None) or (64, 64)
    first = next(network.parameters())
    pictures = torch.randn(2, network.mean.shape[1], *size, generator=generator("stages"))  # type: ignore[index]
    return pictures.to(first.device, first.dtype)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every layer is in the mode it was in."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def named_stages(backbone: nn.Module) -> list[str]:
    """Layers that end a stage, by timm's record of the model; many are thinned out to four."""
    names = [str(info["module"]) for info in getattr(backbone, "feature_info", [])]
    if len(names) > MANY:
        names = [names[(i + 1) * len(names) // FEW - 1] for i in range(FEW)]
    return names


def candidates(backbone: nn.Module, stages: Sequence[str]) -> dict[str, nn.Module]:
    """Top-level layers by name; those that hold stages are taken apart."""
    found, waiting = {}, list(backbone.named_children())
    while waiting:
        name, module = waiting.pop(0)
        inner = list(module.named_children())
        if inner and (
            isinstance(module, nn.ModuleList) or any(s.startswith(f"{name}.") for s in stages)
        ):
            waiting = [(f"{name}.{child}", layer) for child, layer in inner] + waiting
        else:
            found[name] = module
    return found


def layers_of(network: Network, option: str) -> list[Layer]:
    """The layers that the backbone calls, in order. Raises UserError where one is no map of one
    tensor, called once."""
    backbone = network.backbone
    stages = named_stages(backbone)
    called: list[Layer] = []
    odd: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            plain = given and all(
                isinstance(x, Tensor) and x.ndim > 1 and len(x) == 2 for x in (given[0], output)
            )
            if plain and all(layer.name != name for layer in called):
                called.append(Layer(name, module, output, name in stages))
            elif name in stages or next(module.parameters(), None) is not None:
                odd.append(name)

        return hook

    with evaluating(backbone), ExitStack() as hooks:
        for name, module in candidates(backbone, stages).items():
            hooks.callback(module.register_forward_hook(note(name)).remove)
        try:
            backbone(sample(network))
        except RuntimeError as error:
            raise unstageable(
                option, "pictures of 64x64 are too small; set network.input_size"
            ) from error
    if odd or not any(layer.ends_stage for layer in called):
        raise unstageable(
            option,
            f"its layer '{odd[0]}' takes or gives more than one tensor" if odd else "no stages",
        )
    return called


def unstageable(option: str, reason: str) -> UserError:
    return UserError(
        f"{option} cannot cut network.name into stages ({reason}): expected one like {TRIED}"
    )


def channel_axis(backbone: nn.Module, output: Tensor) -> int:
    """Where the channels lie: behind in tokens [N, L, C] and in pictures that the model calls NHWC,
    else second."""
    behind = output.ndim == 3 or getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    return output.ndim - 1 if behind else 1


def install(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(backbone.get_submodule(parent), child, layer)


def split_into_columns(
    network: Network,
    tasks: Sequence[str],
    layers: Sequence[Layer],
    mixes: dict[str, nn.Module],
    option: str,
) -> None:
    """Give every task its own copy of these last layers of the backbone, which then has features by
    task. mixes: what stands between the columns, by the name of the layer it follows. Raises
    UserError where the result is another function, mixing apart, which must leave equal columns as
    they are."""
    trunk, x = network.backbone, sample(network)
    with evaluating(trunk):
        before = trunk(x)
    enter = True
    for layer in layers:
        if layer.trained or layer.name in mixes or enter:
            install(
                trunk, layer.name, Columns(layer.module, len(tasks), enter, mixes.get(layer.name))
            )
            enter = False
    network.backbone = ByTask(trunk, tasks)
    try:
        with evaluating(network.backbone):
            after = network.backbone(x)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise unstageable(option, str(error).strip().split("\n")[0]) from error
    scale = before.abs().max().clamp_min(1e-6)
    if any(
        found.shape != before.shape or (found - before).abs().max() > 1e-4 * scale
        for found in after.values()
    ):
        raise unstageable(option, "in columns it computes something else")
