"""A backbone that branches like a tree: every stage has one column for each group of tasks.

stage 0   {a b c d}                 The groups of a stage are parts of those of the stage
stage 1   {a b c d}                 before. Columns are copies of a layer that run on their
stage 2   {a b}   {c d}             parts of the batch, as in `stages.py`; where a group
stage 3   {a}{b}  {c d}             splits, its columns take the same input.
heads      a  b    c  d
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from foundation.errors import UserError, first_line
from methods.multi_task.stages import (
    Layer,
    agrees,
    forward_of,
    install,
    layers_of,
    not_in_place,
    parts_of,
    sample,
    unstageable,
)
from recipes.networks.network import Network

Groups = list[list[str]]
TRUNK = "backbone.trunk."


@dataclass(frozen=True)
class TreeStage:
    """layers: names in the backbone, in the order of calls; those that another tensor could not
    stand for are not among them. groups: of tasks, a column each. price: of one more column."""

    layers: list[str]
    groups: Groups
    price: float


@dataclass(frozen=True)
class Tree:
    """stages: from the input to the heads. active: the stage that may split next, the last one that
    all tasks share; 0: none, as the first stage is always shared."""

    stages: list[TreeStage]
    active: int

    @property
    def tasks(self) -> list[str]:
        return sorted(chain.from_iterable(self.stages[-1].groups))

    @property
    def splits(self) -> bool:
        return any(len(stage.groups) > 1 for stage in self.stages)

    def branches(self) -> Groups:
        """What hangs on the active stage: the columns of the next one, or the heads."""
        if self.active + 1 < len(self.stages):
            return self.stages[self.active + 1].groups
        return [[task] for task in chain.from_iterable(self.stages[-1].groups)]

    def split(self, groups: Groups) -> "Tree":
        """The tree with these groups at the active stage; the stage before is active then."""
        stages = list(self.stages)
        stages[self.active] = replace(stages[self.active], groups=groups)
        return Tree(stages, self.active - 1)


# -- files -----------------------------------------------------------------------------------------
def write_tree(path: Path, tree: Tree) -> None:
    path.write_text(json.dumps(asdict(tree), indent=1) + "\n", encoding="utf-8")


def read_tree(path: str, tasks: Sequence[str], option: str) -> Tree:
    """Raises `UserError` for a file that is no tree of these tasks."""
    expected = "expected a tree.json that a fafs run left"
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = TypeAdapter(Tree).validate_json(text, strict=True)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise UserError(f"{option}={path}", f"is no tree: {place} is wrong", expected) from error
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({first_line(error)})"
        raise UserError(f"{option}={path}", problem, expected) from error
    if not tree.stages or tree.tasks != sorted(tasks) or not nested(tree):
        problem = f"is of the tasks {', '.join(tree.tasks) if tree.stages else 'of none'}"
        raise UserError(f"{option}={path}", problem, f"this run has {', '.join(tasks)}")
    return tree


def nested(tree: Tree) -> bool:
    """Whether every stage has each task once, and its groups are parts of those before."""
    for before, after in zip(tree.stages, tree.stages[1:], strict=False):
        if any(parent_of(group, before.groups) is None for group in after.groups):
            return False
    names = [sorted(chain.from_iterable(stage.groups)) for stage in tree.stages]
    return all(own == tree.tasks for own in names)


def parent_of(group: Sequence[str], groups: Groups) -> int | None:
    """The group that has all tasks of this one."""
    return next((i for i, whole in enumerate(groups) if set(group) <= set(whole)), None)


# -- the tree of a backbone ------------------------------------------------------------------------
def shared_tree(network: Network, tasks: Sequence[str], unit: float, option: str) -> Tree:
    """The tree of a backbone that all tasks share. unit: price of a column of the last stage."""
    layers = layers_of(network, option)
    parts: list[list[Layer]] = [[]]
    for layer in layers:
        parts[-1].append(layer)
        if layer.ends_stage:
            parts.append([])
    # what follows the last stage (a norm, pooling) is part of it
    last = parts.pop()
    parts[-1] += last
    prices = prices_of(network.backbone, parts, unit)
    stages = [
        TreeStage([layer.name for layer in part], [list(tasks)], price)
        for part, price in zip(parts, prices, strict=True)
    ]
    return Tree(stages, len(stages) - 1)


def prices_of(backbone: nn.Module, parts: Sequence[Sequence[Layer]], unit: float) -> list[float]:
    """c_l = L0 · 2^p_l, p_l: halvings of the picture from stage l up to the heads, its own
    included."""
    by_name = {str(info["module"]): info for info in getattr(backbone, "feature_info", [])}
    reductions = [1.0]
    for part in parts:
        ends = [layer.name for layer in part if layer.ends_stage]
        reductions.append(float(by_name[ends[0]].get("reduction", 1)) if ends else reductions[-1])
    return [unit * reductions[-1] / before for before in reductions[:-1]]


class Branches(nn.Module):
    """Copies of a layer, each on a part of the batch: [k·N, …] -> [c·N, …].

    parents: for each copy the part that it takes; the batch has max(parents) + 1 parts. Attributes
    that a backbone reads of the layer are those of the first copy.
    """

    def __init__(self, layer: nn.Module, parents: Sequence[int]):
        super().__init__()
        # deepcopy takes what is in its memo as copied already: frozen weights are one for all
        frozen = {id(p): p for p in layer.parameters() if not p.requires_grad}
        copies = [copy.deepcopy(layer, memo=dict(frozen)) for _ in parents[1:]]
        self.copies = nn.ModuleList([layer, *copies])
        self.parents = tuple(parents)
        not_in_place(self.copies)  # columns are views of one tensor, or several take the same

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "copies":
                raise
            return getattr(self.copies[0], name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parts = parts_of(x, max(self.parents) + 1)
        outputs = []
        for layer, parent in zip(self.copies, self.parents, strict=True):
            outputs.append(layer(parts[parent], *args, **kwargs))
        return torch.cat(outputs)


class Leaves(nn.Module):
    """The features of a trunk of several columns, [c·N, D], by task: [N, D] each. columns: of each
    task, by its name."""

    def __init__(self, trunk: nn.Module, columns: dict[str, int]):
        super().__init__()
        self.trunk = trunk
        self.columns = columns

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        parts = parts_of(self.trunk(x), max(self.columns.values()) + 1)
        return {task: parts[column] for task, column in self.columns.items()}


def grow(network: Network, tree: Tree, tasks: Sequence[str], option: str) -> None:
    """Give the backbone the columns of the tree; it then returns features by task. Copies start
    equal, so its function is unchanged. Raises `UserError` for a backbone of other layers."""
    trunk = network.backbone
    # the plan has a network of shapes, which is not run
    x = None if next(network.parameters()).is_meta else sample(network)
    before = None if x is None else forward_of(trunk, x)
    groups = [list(tasks)]
    for stage in tree.stages:
        parents = [parent_of(group, groups) or 0 for group in stage.groups]
        add_columns(trunk, stage, parents, option)
        groups = stage.groups
    columns = {task: parent_of([task], groups) or 0 for task in tasks}
    network.backbone = Leaves(trunk, columns)
    if x is None or before is None:
        return
    after = forward_of(network.backbone, x)
    if not all(agrees(features, before) for features in after.values()):
        raise unstageable(option, "in columns it computes something else")


def add_columns(trunk: nn.Module, stage: TreeStage, parents: Sequence[int], option: str) -> None:
    """Replace the layers of one stage by columns. parents: for each column that of the stage
    before."""
    if len(parents) == 1:
        return
    steps = list(parents)
    for name in stage.layers:
        try:
            layer = trunk.get_submodule(name)
        except AttributeError as error:
            problem = f"the tree names a layer '{name}', which network.name does not have"
            raise UserError(option, problem, "use the network that the tree was made of") from error
        has_state = bool(layer.state_dict())
        if has_state or steps != list(range(len(steps))):
            install(trunk, name, Branches(layer, steps))
            steps = list(range(len(parents)))


# -- widening --------------------------------------------------------------------------------------
def widened(state: dict[str, Tensor], before: Tree, after: Tree) -> dict[str, Tensor]:
    """The weights of the network of a tree from those of the one before its last split: every
    column of the split stage gets a copy."""
    copied: dict[str, int] = {}
    for old, new in zip(before.stages, after.stages, strict=True):
        if len(old.groups) == 1 and len(new.groups) > 1:
            copied |= dict.fromkeys(new.layers, len(new.groups))
    if not after.splits:
        return dict(state)
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("backbone."):
            result[key] = value
            continue
        name = key.removeprefix(TRUNK).removeprefix("backbone.")
        layer = next((layer for layer in copied if name.startswith(f"{layer}.")), None)
        if layer is None:
            result[TRUNK + name] = value
            continue
        rest = name.removeprefix(f"{layer}.")
        for column in range(copied[layer]):
            result[f"{TRUNK}{layer}.copies.{column}.{rest}"] = value.clone()
    return result
