"""Multi-task attention network. Liu, Johns and Davison, End-to-End Multi-Task Learning with
Attention, CVPR 2019, arXiv 1803.10704."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundation.types import Count
from methods.multi_task.stages import (
    Layer,
    channel_axis,
    forward_of,
    layers_of,
    not_in_place,
    parts_of,
    sample,
    unstageable,
)
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import Network


def block(inputs: int, outputs: int, kernel: int, act: nn.Module, tokens: bool) -> nn.Sequential:
    """Convolution, BatchNorm, activation; on tokens a linear layer and LayerNorm."""
    if tokens:
        return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), act)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act)


def on_grid_of(x: Tensor, p: Tensor, pool: Any) -> Tensor:
    """x pooled to the height and width of p, where it is a picture of another size."""
    if x.ndim == 3 or x.shape[2:] == p.shape[2:]:
        return x
    return pool(x, p.shape[2:])  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One stage: â_t = h_t(g_t([u; f(â_t of the stage before)])) ⊙ p, with a mask in (0, 1) of the
    shape of p.

    u, p: early and last feature, channels in second place, or tokens [N, L, C]. g, h: 1×1, one pair
    a task. f: 3×3, one for all tasks, pooled where the next stage is smaller; `before` is its
        number of input channels, 0 in the first.
    """

    def __init__(
        self, tasks: Sequence[str], early: int, last: int, before: int, reduction: int, tokens: bool
    ):
        super().__init__()
        inputs = early + (last if before else 0)
        middle = max(last // reduction, 1)
        act = nn.GELU if tokens else nn.ReLU
        self.onward = block(before, last, 3, act(), tokens) if before else None
        self.masks = nn.ModuleDict()
        for task in tasks:
            g = block(inputs, middle, 1, act(), tokens)
            h = block(middle, last, 1, nn.Sigmoid(), tokens)
            self.masks[task] = nn.Sequential(*g, *h)

    def forward(self, u: Tensor, p: Tensor, before: dict[str, Tensor]) -> dict[str, Tensor]:
        u = on_grid_of(u, p, F.adaptive_avg_pool2d)
        attended = {}
        for task, mask in self.masks.items():
            parts = [u]
            if self.onward is not None:
                parts.append(on_grid_of(self.onward(before[task]), p, F.adaptive_max_pool2d))
            attended[task] = mask(torch.cat(parts, 2 if p.ndim == 3 else 1)) * p
        return attended


class Attended(nn.Module):
    """A trunk whose stages are read by attention, never changed. What follows the last stage (norm,
    pooling) runs once, on the attended features of all tasks concatenated along the batch.

    stages: names of the trunk's layers that end a stage. channels_last: whether pictures are NHWC.
    """

    def __init__(
        self,
        trunk: nn.Module,
        stages: Sequence[str],
        attentions: Sequence[Attention],
        channels_last: bool,
    ):
        super().__init__()
        self.trunk = trunk
        self.stages = tuple(stages)
        self.channels_last = channels_last
        self.attentions = nn.ModuleList(attentions)

    def channels_second(self, x: Tensor) -> Tensor:
        return x.movedim(3, 1) if self.channels_last and x.ndim == 4 else x

    def as_trunk_has_it(self, x: Tensor) -> Tensor:
        return x.movedim(1, 3) if self.channels_last and x.ndim == 4 else x

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early: dict[int, Tensor] = {}  # u_j
        attended: dict[str, Tensor] = {}  # â_t of the stage before, by task

        def keep_early(j: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            early[j] = self.channels_second(inputs[0])

        def attend(j: int, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            last = self.channels_second(output)
            attended.update(self.attentions[j](early[j], last, attended))
            if j + 1 < len(self.stages):
                return None  # the trunk keeps its own output
            return self.as_trunk_has_it(torch.cat(list(attended.values())))

        with ExitStack() as hooks:
            for j, name in enumerate(self.stages):
                stage = self.trunk.get_submodule(name)
                before = last_block(stage).register_forward_pre_hook(partial(keep_early, j))
                hooks.callback(before.remove)
                after = stage.register_forward_hook(partial(attend, j))
                hooks.callback(after.remove)
            features = self.trunk(x)
        return dict(zip(attended, parts_of(features, len(attended)), strict=True))


def last_block(stage: nn.Module) -> nn.Module:
    """The last block of a stage; the stage itself where it is one."""
    blocks = getattr(stage, "blocks", stage)
    if isinstance(blocks, nn.Sequential) and len(blocks):
        return blocks[-1]
    return stage


def attended_stages(layers: Sequence[Layer]) -> list[Layer]:
    """The ends of stages; a stem that ends in an activation is left out where whole stages follow
    it."""
    ends = [layer for layer in layers if layer.ends_stage]
    return [layer for layer in ends if layer.trained] or ends


class MTAN(Method):
    """â_t,j = h_t(g_t([u_j; f_j(â_t,j-1)])) ⊙ p_j: one shared network, from which every task picks
    by soft masks.

    u_j is the input of the last block of stage j, p_j the stage's output. g, h: 1×1 convolutions
    with BatchNorm, ReLU and sigmoid, one pair a task and stage; f_j: 3×3 convolution with BatchNorm
    and ReLU, shared by the tasks, pooled to the next stage's grid. On tokens linear layers with
    LayerNorm and GELU (our extension). Head t reads â_t of the last stage. Weightings of gradients
    count f_j to what tasks share; the masks see the weight of their task, heads do not.

    reduction: channels of the stage over those between g and h, at least 1; 4.
    """

    declaration = Declaration(
        modalities=("image",),
        tasks_at_least=2,
        slots=("sharing",),
        tags=("features_by_task",),
        refuses={
            "adds_tokens": (
                "its masks lie over places of a picture, and added tokens have none; leave one out"
            )
        },
        after=("delta",),
        uncompiled="its masks are hung into the trunk anew in every forward",
    )

    def __init__(self, reduction: Count = 4):
        self.reduction = reduction

    def build(self, context: Context) -> None:
        network = context.network
        trunk = network.backbone
        tasks = list(context.tasks)
        option = f"multi_task={self.key}"
        layers = attended_stages(layers_of(network, option))
        not_in_place(trunk)  # u_j and p_j are read after the layers behind them have run
        attentions = []
        before = 0
        channels_last = False
        for layer, early in zip(layers, early_widths(network, layers), strict=True):
            axis = channel_axis(trunk, layer.output)
            last = layer.output.shape[axis]
            tokens = layer.output.ndim == 3
            attentions.append(Attention(tasks, early, last, before, self.reduction, tokens))
            before = last
            channels_last |= axis == 3
        names = [layer.name for layer in layers]
        network.backbone = Attended(trunk, names, attentions, channels_last)
        check(network, option)


def early_widths(network: Network, layers: Sequence[Layer]) -> list[int]:
    """Channels of u_j, the inputs of the stages' last blocks."""
    widths: list[int] = []
    trunk = network.backbone

    def note_width(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        widths.append(x.shape[channel_axis(trunk, x)])

    with ExitStack() as hooks:
        for layer in layers:
            hook = last_block(layer.module).register_forward_pre_hook(note_width)
            hooks.callback(hook.remove)
        forward_of(trunk, sample(network))
    return widths


def check(network: Network, option: str) -> None:
    """Raise UserError where not every task gets features of the trunk's width."""
    try:
        by_task = forward_of(network.backbone, sample(network))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise unstageable(option, str(error).strip().split("\n")[0]) from error
    if any(features.shape != (2, network.feature_dim) for features in by_task.values()):
        raise unstageable(option, "what follows its last stage is no map of single samples")
