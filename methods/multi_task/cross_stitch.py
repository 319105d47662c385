"""Misra, Shrivastava, Gupta and Hebert, Cross-Stitch Networks for Multi-Task Learning, CVPR 2016,
arXiv 1604.03539."""

from functools import reduce
from operator import add
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.types import Scale
from methods.multi_task.stages import Layer, channel_axis, layers_of, split_into_columns
from recipes.contract import Context, Declaration, Method


def stitch(parts: list[Tensor], alpha: Tensor, axis: int) -> list[Tensor]:
    """x̃_i = Σ_j α_ij x_j, channel by channel. parts: T tensors with C channels along `axis`.
    alpha: [T, T, C] or [T, T, 1]."""
    shape = [1] * parts[0].ndim
    shape[axis] = alpha.shape[2]
    stitched = []
    for row in alpha.to(parts[0].dtype):
        products = [a.view(shape) * x for a, x in zip(row, parts, strict=True)]
        stitched.append(reduce(add, products))
    return stitched


def start_alpha(tasks: int, channels: int, own: float) -> Tensor:
    """α [T, T, C] with α_ii = own and the rest of a row spread over the others, so that rows sum to
    one for any T."""
    alpha = torch.full((tasks, tasks), (1 - own) / (tasks - 1)).fill_diagonal_(own)
    return alpha.unsqueeze(2).repeat(1, 1, channels)


class Stitch(nn.Module):
    """The unit after a stage: alpha, with a learning rate of its own and no weight decay, which
    would pull it to 0."""

    def __init__(self, tasks: int, channels: int, axis: int, own: float, lr_scale: float):
        super().__init__()
        self.axis = axis
        self.alpha = nn.Parameter(start_alpha(tasks, channels, own))
        self.alpha._lr_scale = lr_scale  # type: ignore[attr-defined]
        self.alpha._weight_decay = 0.0  # type: ignore[attr-defined]

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        return stitch(parts, self.alpha, self.axis)


class CrossStitch(Method):
    """x̃_i = Σ_j α_ij x_j after every stage, α learnt: T copies of the backbone, one a task, that
    exchange activations.

    T times the compute and memory of one backbone. The last stage is stitched too, before pooling.
    Columns start as copies of the backbone, so from its pretrained weights where it has some; α is
    not constrained afterwards.

    own: α_ii at the start, in (0, 1]; 0.9 (paper; robust from 0.5 to 0.9). The other tasks share 1
        - own.
    per_channel: a matrix α for every channel (paper); false: one a stage.
    lr_scale: learning rate of α over the run's, above 0; 1 (ours). The paper takes 100 to 1000 with
        the tiny rates of fine-tuning.
    """

    declaration = Declaration(
        modalities=("image",),
        tasks_at_least=2,
        slots=("sharing",),
        tags=("features_by_task",),
        after=("delta",),
    )

    def __init__(
        self,
        own: Annotated[float, Field(gt=0, le=1)] = 0.9,
        per_channel: bool = True,
        lr_scale: Scale = 1.0,
    ):
        self.own = own
        self.per_channel = per_channel
        self.lr_scale = lr_scale

    def build(self, context: Context) -> None:
        network = context.network
        option = f"multi_task={self.key}"
        layers = layers_of(network, option)

        def unit(layer: Layer) -> Stitch:
            axis = channel_axis(network.backbone, layer.output)
            channels = layer.output.shape[axis] if self.per_channel else 1
            return Stitch(len(context.tasks), channels, axis, self.own, self.lr_scale)

        mixes: dict[str, Any] = {layer.name: unit(layer) for layer in layers if layer.ends_stage}
        split_into_columns(network, list(context.tasks), layers, mixes, option)
