"""embed -> features -> heads: what the engine and every method know of a network."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.errors import UserError
from recipes.step.gates import Gates
from recipes.step.step import Embedded, Output

# of timm: normalise by moments of the batch while training, though they are no torch BatchNorm
_BATCH_MOMENTS = ("EvoNorm2dB0", "EvoNorm2dB1", "EvoNorm2dB2")


class Network(nn.Module, ABC):
    """A backbone between an embedding and one head a task.

        embedded = network.embed(view)            everything continuous (attacks, mixing, noise)
        works here features = network.features(embedded)     [N, feature_dim], pooled, before
        dropout and heads logits   = network.heads[task](dropout(features))    [N, C]

    `heads` is an ordinary ModuleDict: a method that wants another classifier (cosine, proxies,
    several layers) replaces an entry by any module from [N, feature_dim] to [N, C]. `backbone`
    holds everything before, so surgery and freezing look there; what surgery adds lies in `deltas`,
    by the method's key, and so in an averaged copy as well. `still` lists modules that stay in
    evaluation mode while the rest trains; `frozen` says that of the backbone only what methods
    choose still learns.

    Where tasks part before the heads, a backbone gives features by task, and so does `features`:
    every head reads its own, one that belongs to no task (the embedding) their mean. `gates`, where
    a method puts them, stand between what tasks share and the heads.

    feature_dim: D. tasks: number of classes by task name. drop_rate: dropout between features and
    heads, in [0, 1). Raises UserError for a task name that cannot name a module.
    """

    kind: ClassVar[Literal["image", "text"]]
    backbone: nn.Module

    def __init__(self, feature_dim: int, tasks: dict[str, int], drop_rate: float = 0.0):
        super().__init__()
        self.feature_dim = feature_dim
        self.dropout = nn.Dropout(drop_rate)
        self.gates: Gates | None = None
        self._compiled: Callable[[Embedded], Tensor | dict[str, Tensor]] | None = None
        self.deltas = nn.ModuleDict()
        self.still: list[nn.Module] = []
        self.frozen = False
        self.heads = nn.ModuleDict()
        for task, classes in tasks.items():
            if not task or "." in task or hasattr(self.heads, task):
                raise UserError(
                    f"task '{task}': torch cannot name a head so; call the task otherwise, e.g. "
                    f"'{task}_task'"
                )
            self.heads[task] = linear_head(feature_dim, classes)

    @abstractmethod
    def embed(self, view: Any) -> Embedded:
        """The continuous input of a view, with gradient to whatever makes it."""

    @abstractmethod
    def features(self, embedded: Embedded) -> Tensor | dict[str, Tensor]:
        """Pooled features [N, feature_dim], or such by task."""

    @abstractmethod
    def example(self) -> Embedded:
        """Two made-up samples of the kind this network takes, always the same, on its device."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.still:
            module.eval()
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile of `features`, with its arguments. Heads and gates stay as they are:
        gradients are taken between the two, methods put other heads in, and a gate's number is set
        between forward and backward."""
        self._compiled = torch.compile(self.features, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # a copy would go on computing with the weights of the original
        return super().__getstate__() | {"_compiled": None}

    def forward(self, embedded: Embedded) -> Output:
        features = (self._compiled or self.features)(embedded)
        if isinstance(features, Tensor):
            hidden = dict.fromkeys(self.heads, self.dropout(features))
        else:
            mean = torch.stack(list(features.values())).mean(0)
            hidden = {task: self.dropout(features.get(task, mean)) for task in self.heads}
            features = mean
        if self.gates is not None:
            hidden = {task: self.gates(values, task) for task, values in hidden.items()}
        return Output(features, {task: head(hidden[task]) for task, head in self.heads.items()})

    @property
    def batch_statistics(self) -> bool:
        """Whether a sample's output depends now on the others of its forward: some BatchNorm is in
        training mode or keeps no running statistics. Then forwarding two inputs apart is not
        forwarding them together."""
        norms = _batch_norms()
        return any(
            module.training or getattr(module, "running_var", None) is None
            for module in self.modules()
            if isinstance(module, norms)
        )


def _batch_norms() -> tuple[type[nn.Module], ...]:
    """Modules that normalise by moments of the batch; where timm was not imported, nothing can be
    of it."""
    layers = sys.modules.get("timm.layers")
    return (_BatchNorm, *(getattr(layers, name) for name in _BATCH_MOMENTS if layers))


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode: no dropout, batch normalization by running statistics.

    Afterwards every module has its own mode again, also those that were in evaluation mode before.
    """
    modes = [(module, module.training) for module in network.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def linear_head(features: int, classes: int) -> nn.Linear:
    """Linear classifier: weights Glorot normal, std √(2 / (features + classes)), bias zero (as
    FixMatch has it)."""
    head = nn.Linear(features, classes)
    nn.init.xavier_normal_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of frozen parameters; works on the meta device."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in module.parameters()) - trainable
