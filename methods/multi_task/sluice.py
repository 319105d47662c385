"""Sluice networks. Ruder, Bingel, Augenstein and Søgaard, Latent Multi-task Architecture Learning,
AAAI 2019, arXiv 1705.08142."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Count, Scale, Weight
from methods.multi_task.stages import (
    Layer,
    channel_axis,
    layers_of,
    parts_of,
    split_into_columns,
)
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import linear_head
from recipes.step import Step

AlphaStart = Literal["identity_like", "balanced"]
BetaStart = Literal["imbalanced", "uniform"]
PenaltyNorm = Literal["none", "mean"]


# -- the mathematics -------------------------------------------------------------------------------
def mixed_subspaces(parts: Sequence[Tensor], alpha: Tensor, axis: int) -> list[Tensor]:
    """x̃_{t,s} = Σ_{k,r} α_{ts,kr} x_{k,r} for T tensors whose channels along `axis` are S equal
    subspaces, one after the other. alpha: [T·S, T·S], task-major."""
    count = len(parts)
    subspaces = len(alpha) // count
    chunks = [chunk for x in parts for chunk in x.chunk(subspaces, axis)]
    stacked = torch.stack(chunks)
    mixed = (alpha.to(stacked.dtype) @ stacked.flatten(1)).view_as(stacked).unbind()
    return [torch.cat(mixed[t * subspaces : (t + 1) * subspaces], axis) for t in range(count)]


def start_alpha(size: int, kind: AlphaStart, own: float) -> Tensor:
    """`balanced`: 1 / size everywhere; `identity_like`: `own` on the diagonal, the rest of a row
    spread over it, so that rows sum to 1; [size, size]."""
    if kind == "balanced":
        return torch.full((size, size), 1 / size)
    return torch.full((size, size), (1 - own) / max(size - 1, 1)).fill_diagonal_(own)


def start_beta(tasks: int, stages: int, kind: BetaStart) -> Tensor:
    """`imbalanced`: 0.9 on the last stage and the rest spread over the others; `uniform`: 1 / M;
    [T, M]. Of a single stage 1."""
    if kind == "uniform" or stages == 1:
        return torch.full((tasks, stages), 1 / stages)
    beta = torch.full((tasks, stages), 0.1 / (stages - 1))
    beta[:, -1] = 0.9
    return beta


def overlap(weight: Tensor, subspaces: int, norm: PenaltyNorm) -> Tensor:
    """Σ_{s<r} ‖W_sᵀ W_r‖²_F, W_s the rows of W [C_out, …] that make subspace s; `mean`: divided by
    the number of entries of W_sᵀ W_r."""
    rows = weight.float().flatten(1)
    # ‖AᵀB‖² = ⟨AAᵀ, BBᵀ⟩, whose matrices have the size of a subspace, not of the inputs
    grams = [w @ w.T for w in rows.chunk(subspaces)]
    pairs = [(a * b).sum() for a, b in combinations(grams, 2)]
    total = torch.stack(pairs).sum() if pairs else rows.new_zeros(())
    return total / rows.shape[1] ** 2 if norm == "mean" else total


def pooled(x: Tensor, axis: int) -> Tensor:
    """The mean over all places, [N, C]."""
    places = [i for i in range(1, x.ndim) if i != axis]
    return x.mean(places) if places else x


# -- the network -----------------------------------------------------------------------------------
def without_decay(start: Tensor, lr_scale: float) -> nn.Parameter:
    """A parameter with a learning rate of its own and no weight decay, which would pull it to 0."""
    parameter = nn.Parameter(start)
    parameter._lr_scale = lr_scale  # type: ignore[attr-defined]
    parameter._weight_decay = 0.0  # type: ignore[attr-defined]
    return parameter


class SubspaceMix(nn.Module):
    """The unit after a stage. It starts as the identity, with which columns are checked."""

    def __init__(self, size: int, axis: int, lr_scale: float):
        super().__init__()
        self.axis = axis
        self.alpha = without_decay(torch.eye(size), lr_scale)

    def forward(self, parts: list[Tensor]) -> list[Tensor]:
        return mixed_subspaces(parts, self.alpha, self.axis)


class Sluiced(nn.Module):
    """Features by task of a trunk of T columns: Σ_m β_{t,m} h̃_{t,m} over its stages. The last one
    is what the trunk returns; the others are pooled, and projected where their width is another.

    stages: names of the trunk's layers that end one. penalized: names of the weights whose
    subspaces are to be orthogonal, of all columns.
    """

    def __init__(
        self,
        trunk: nn.Module,
        tasks: Sequence[str],
        stages: Sequence[str],
        widths: Sequence[int],
        beta: nn.Parameter,
        penalized: Sequence[str],
    ):
        super().__init__()
        self.trunk = trunk
        self.tasks = tuple(tasks)
        self.stages = tuple(stages)
        self.beta = beta
        self.penalized = tuple(penalized)
        projections = []
        for width in widths[:-1]:
            same = width == widths[-1]
            projections.append(nn.Identity() if same else linear_head(width, widths[-1]))
        self.projections = nn.ModuleList(projections)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs: dict[int, list[Tensor]] = {}  # of the stages before the last, by task

        def keep(m: int, module: nn.Module, inputs: Any, output: list[Tensor]) -> None:
            outputs[m] = output

        units = [self.trunk.get_submodule(f"{name}.mix") for name in self.stages]
        with ExitStack() as hooks:
            for m, unit in enumerate(units[:-1]):
                hooks.callback(unit.register_forward_hook(partial(keep, m)).remove)
            columns = parts_of(self.trunk(x), len(self.tasks))
        features = {}
        for t, task in enumerate(self.tasks):
            total = self.beta[t, -1] * columns[t]
            for m, project in enumerate(self.projections):
                stage = project(pooled(outputs[m][t], units[m].axis))  # type: ignore[arg-type]
                total = total + self.beta[t, m] * stage
            features[task] = total
        return features

    def penalty(self, subspaces: int, norm: PenaltyNorm) -> Tensor | None:
        """The sum over the weights that are trained; None where all are frozen."""
        weights = [self.trunk.get_parameter(name) for name in self.penalized]
        overlaps = [overlap(w, subspaces, norm) for w in weights if w.requires_grad]
        return torch.stack(overlaps).sum() if overlaps else None


def last_weights(layers: Sequence[Layer], axis_of: dict[str, int]) -> list[tuple[str, str]]:
    """(layer, name of a weight in it) of every stage: of its last convolution or linear layer that
    has the stage's channels as outputs."""
    found = []
    last: dict[int, tuple[str, str]] = {}  # by number of outputs
    for layer in layers:
        for name, module in layer.module.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                last[module.weight.shape[0]] = (layer.name, f"{name}.weight".removeprefix("."))
        if layer.ends_stage:
            width = layer.output.shape[axis_of[layer.name]]
            found += [last[width]] if width in last else []
            last = {}
    return found


class Sluice(Method):
    """x̃_{t,s} = Σ_{k,r} α_{ts,kr} x_{k,r} after every stage, z_t = Σ_m β_{t,m} h̃_{t,m}, + λ Σ ‖W_1ᵀ
    W_2‖²_F: T copies of the backbone whose channels are split into S subspaces; α learns which
    subspaces of which tasks exchange, β from which stages a task reads.

    When it is not known which layers tasks should share and how much; T times the compute and
    memory of one backbone, and more freedom than data of one small set can use (cross_stitch is S =
    1 with β on the last stage). Hidden stages are pooled, and projected to the last one's width
    where theirs is another. Columns start as copies of the backbone, but mixed subspaces are
    another function than the backbone's, so pretrained weights help less than with cross_stitch. α
    and β are not constrained and have no weight decay. Subspaces are blocks of channels, as in the
    paper's equations; the authors' reshape mixes dimensions of different tasks. The penalty belongs
    to no task.

    subspaces: S, at least 1; 2 (paper); must divide the channels of every stage.
    alpha: α at the start: `identity_like` or `balanced`, 1/(T·S) each (authors' code). With
        `balanced` all subspaces are equal at first.
    own: diagonal of α with `identity_like`, in (0, 1]; 0.9 (ours). The rest of a row is spread.
    beta: β at the start: `imbalanced`, 0.9 on the last stage (authors' code), or `uniform`.
    penalty: λ, at least 0; 0.001 (ours). The paper has 0.1 for layers of width 100: the sum over
        convolutions is larger. Frozen weights (PEFT) have none.
    penalty_norm: `none`, the sum (paper), or `mean` over the entries of W_1ᵀ W_2.
    lr_scale: learning rate of α and β over the run's, above 0; 1.

    Raises UserError where S does not divide a stage's channels, and for a network without stages.
    """

    declaration = Declaration(
        modalities=("image",),
        tasks_at_least=2,
        slots=("sharing",),
        tags=("features_by_task",),
        after=("delta",),
        uncompiled="its stages are tapped anew in every forward",
    )

    def __init__(
        self,
        subspaces: Count = 2,
        alpha: AlphaStart = "identity_like",
        own: Annotated[float, Field(gt=0, le=1)] = 0.9,
        beta: BetaStart = "imbalanced",
        penalty: Weight = 0.001,
        penalty_norm: PenaltyNorm = "none",
        lr_scale: Scale = 1.0,
    ):
        self.subspaces = subspaces
        self.alpha: AlphaStart = alpha
        self.own = own
        self.beta: BetaStart = beta
        self.penalty = penalty
        self.penalty_norm: PenaltyNorm = penalty_norm
        self.lr_scale = lr_scale

    def build(self, context: Context) -> None:
        network = context.network
        tasks = list(context.tasks)
        option = f"multi_task={self.key}"
        layers = layers_of(network, option)
        stages = [layer for layer in layers if layer.ends_stage]
        axes = {layer.name: channel_axis(network.backbone, layer.output) for layer in stages}
        widths = [layer.output.shape[axes[layer.name]] for layer in stages]
        for layer, width in zip(stages, widths, strict=True):
            if width % self.subspaces:
                raise UserError(
                    f"methods.{self.key}.subspaces={self.subspaces}",
                    f"does not divide the {width} channels of '{layer.name}'",
                    "choose a divisor of the channels of every stage",
                )
        size = len(tasks) * self.subspaces
        units = {name: SubspaceMix(size, axis, self.lr_scale) for name, axis in axes.items()}
        split_into_columns(network, tasks, layers, dict(units), option)
        for unit in units.values():
            unit.alpha.data.copy_(start_alpha(size, self.alpha, self.own))
        columns = range(len(tasks))
        penalized = [
            f"{layer}.copies.{i}.{weight}"
            for layer, weight in last_weights(layers, axes)
            for i in columns
        ]
        beta = without_decay(start_beta(len(tasks), len(stages), self.beta), self.lr_scale)
        trunk: Any = network.backbone.trunk
        network.backbone = Sluiced(
            trunk, tasks, list(axes), [*widths[:-1], network.feature_dim], beta, penalized
        )

    def terms(self, step: Step, context: Context) -> None:
        backbone: Any = context.network.backbone
        if self.penalty == 0 or self.subspaces == 1:
            return
        with torch.autocast(context.device.type, enabled=False):
            penalty = backbone.penalty(self.subspaces, self.penalty_norm)
        if penalty is not None:
            step.term(self.key, penalty, weight=self.penalty)
