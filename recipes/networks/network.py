"""embed -> features -> heads: the interface of networks to the engine and to methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.networks.requests import FreezeRequest
from recipes.networks.taps import INPUT, stage_names, tapped
from recipes.step.batchnorm import batch_normalizations, use_batch_statistics
from recipes.step.gates import Gates
from recipes.step.step import Embedded, Output


class Network(nn.Module, ABC):
    """A backbone between an embedding and one head per task.

        embedded = network.embed(view)              everything continuous (attacks, mixing, noise)
                                                    works here
        features = network.features(embedded)       [N, feature_dim], pooled, before dropout
                                                    and heads
        logits   = network.heads[task](dropout(features))    [N, C]

    `heads` is a ModuleDict: a method that needs another classifier (cosine, proxies, several
    layers) replaces an entry by any module from [N, feature_dim] to [N, C]. `backbone` contains
    everything before the heads; surgery and freezing work on it. `deltas` contains the modules that
    surgery adds, by the method's key, so that they are part of an averaged copy as well.
    `deferred` holds weights, and their file, that wait for surgery (`load_deferred`).
    `eval_only` lists modules that stay in evaluation mode while the rest trains. `frozen`: only
    those backbone parameters train that methods choose. `unused` names parameters of the backbone
    that the forward never reads: they are frozen, because DDP waits for the gradient of every
    trainable parameter. `freezing` is what the user wants frozen (`freeze_requested`), `waiting`
    the parameters that begin to train later, by name, with their steps. `taps` names stages whose
    features every output has (`tap`). `recomputes`: activations are computed again in the
    backward.

    Where tasks branch before the heads, the backbone, and so `features`, returns features by task:
    every head gets those of its task, the embedding their mean. `gates`, if a method sets them, are
    applied between what tasks share and the heads.

    feature_dim: D.
    tasks: number of classes by task name.
    drop_rate: dropout between features and heads, in [0, 1).

    Raises UserError for a task name that cannot name a module.
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
        self.deferred: tuple[dict[str, Tensor], str] | None = None
        self.eval_only: list[nn.Module] = []
        self.unused: frozenset[str] = frozenset()
        self.taps: tuple[str, ...] = ()
        self.frozen = False
        self.recomputes = False
        self.freezing = FreezeRequest()
        self.waiting: dict[str, tuple[float, ...]] = {}
        self.heads = nn.ModuleDict()
        for task, classes in tasks.items():
            if not task or "." in task or hasattr(self.heads, task):
                raise UserError(
                    f"task '{task}': torch does not allow this name for a head; rename the task, "
                    f"e.g. '{task}_task'"
                )
            self.heads[task] = linear_head(feature_dim, classes)

    @abstractmethod
    def embed(self, view: Any) -> Embedded:
        """The continuous input of a view, with gradient to the modules that compute it."""

    @abstractmethod
    def features(self, embedded: Embedded) -> Tensor | dict[str, Tensor]:
        """Pooled features [N, feature_dim], or such features by task."""

    @abstractmethod
    def example(self) -> Embedded:
        """Two synthetic samples of this network's modality, always the same, on its device."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.eval_only:
            module.eval()
        return self

    def keep_eval_only(self, modules: Sequence[nn.Module]) -> None:
        """Put these modules in evaluation mode, also while the network trains."""
        self.eval_only += modules
        for module in modules:
            module.eval()

    def release(self, modules: Sequence[nn.Module]) -> None:
        """The inverse: these modules follow the mode of the network again."""
        released = set(map(id, modules))
        self.eval_only = [module for module in self.eval_only if id(module) not in released]
        for module in modules:
            module.train(self.training)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `features`; arguments of torch.compile. Heads and gates are not compiled:
        gradients are taken between them, methods replace heads, and a gate's scale is set between
        forward and backward."""
        self._compiled = torch.compile(self.features, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # the compiled function of a copy would use the weights of the original
        return super().__getstate__() | {"_compiled": None}

    def stages(self) -> list[str]:
        """The names of its inner stages, first to last, and before them `input`: what enters the
        first."""
        names = stage_names(self.backbone)
        return [INPUT, *names] if names else []

    def tap(self, *names: str) -> None:
        """Request the features of these stages: every later output has them in `taps`."""
        known = self.stages()
        for name in names:
            if name not in known:
                raise ValueError(f"no stage is named '{name}'; there are {', '.join(known)}")
        self.taps = tuple(dict.fromkeys([*self.taps, *names]))

    def forward(self, embedded: Embedded) -> Output:
        if not self.taps:
            return self.output_of((self._compiled or self.features)(embedded))
        first = self.stages()[1]
        # not compiled: its graph was made without the hooks
        with tapped(self.backbone, self.taps, first) as seen:
            features = self.features(embedded)
        return self.output_of(features)._replace(taps=seen)

    def output_of(self, features: Tensor | dict[str, Tensor]) -> Output:
        """The heads on these features, or on those of each task."""
        if isinstance(features, Tensor):
            hidden = dict.fromkeys(self.heads, self.dropout(features))
        else:
            mean = torch.stack(list(features.values())).mean(0)
            hidden = {task: self.dropout(features.get(task, mean)) for task in self.heads}
            features = mean
        if self.gates is not None:
            hidden = {task: self.gates(values, task) for task, values in hidden.items()}
        return Output(features, {task: head(hidden[task]) for task, head in self.heads.items()})

    def freeze_unused(self, names: frozenset[str]) -> None:
        """Set `unused`, before any method chooses what trains."""
        self.unused = names
        for name in names:
            self.backbone.get_parameter(name).requires_grad_(False)

    @property
    def batch_statistics(self) -> bool:
        """Whether a sample's output depends, at present, on the other samples of its forward."""
        return use_batch_statistics(batch_normalizations(self))


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
    """Linear classifier with Glorot normal weights, std √(2 / (features + classes)), and zero bias
    (as in FixMatch)."""
    head = nn.Linear(features, classes)
    nn.init.xavier_normal_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """Numbers of trainable and of frozen parameters; works on the meta device."""
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return trainable, sum(p.numel() for p in module.parameters()) - trainable
