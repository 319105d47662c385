"""The part of a run that methods and probes may use."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.randomness import SampleRandomness
from recipes.contract.remark import Remark
from recipes.networks.network import Network
from recipes.services.named_networks import NamedNetworks
from recipes.services.statistics import ClassStatistics
from recipes.services.teacher import Teacher
from recipes.step.step import Embedded, Net, Output, Step
from recipes.tasks.classification import Task


class MethodModules(Protocol):
    """The modules that methods registered, by key. Only a method knows the class of its module."""

    def __getitem__(self, key: str) -> Any: ...

    def __contains__(self, key: str) -> bool: ...

    def __setitem__(self, key: str, module: nn.Module) -> None: ...


class ReportedNetwork(Protocol):
    def __call__(self, raw: bool = False) -> Network: ...


class Context(Protocol):
    """The interface of a run for methods. `recipes.engine.recipe.Recipe` implements it.

    network: the trained network.
    teacher: its EMA, None if no method requests one.
    networks: those that methods declare, by name; they exist after `build`.
    tasks: the heads' tasks by name.
    method_modules: modules that methods registered in `build`, by key; they are moved to the run's
        device and are part of its checkpoint.
    statistics: class counts and priors of the labeled training samples.
    sizes: number of samples by stream.
    seed: of the run.
    total_steps: optimizer steps of the whole run.
    trainer: Lightning's.
    current_step: the first pass of the current micro-batch, for `wrap_step` after its closure.
    """

    network: Network
    teacher: Teacher | None
    networks: NamedNetworks
    tasks: Mapping[str, Task]
    statistics: ClassStatistics
    sizes: dict[str, int]
    seed: int
    total_steps: int

    @property
    def method_modules(self) -> MethodModules: ...

    @property
    def view_states(self) -> MethodModules:
        """What views have learned, by the name of the view: modules of the run, saved with it."""
        ...

    @property
    def current_step(self) -> Step: ...

    @property
    def trainer(self) -> Any: ...

    @property
    def device(self) -> torch.device: ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the network, the teacher and all method modules."""
        ...

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> Any: ...

    def taking_turns(self, slot: str) -> list[Any]:
        """The methods of the run that share a slot, each batch for one of them."""
        ...

    def extra_forward(self, embedded: Embedded, network: Net = "student") -> Output:
        """A forward in addition to that of the step; running statistics do not change."""
        ...

    def noise_free(self, network: Net = "student") -> AbstractContextManager[None]:
        """Inside it the network has no dropout, and batch normalization by the statistics of the
        batch without an update of the running ones."""
        ...

    def refresh(self, name: str) -> None:
        """Give a snapshot the weights of the trained network."""
        ...

    def parameters_of(self, network: Net) -> list[nn.Parameter]:
        """What trains with a network: a twin's own parameters; of the student all others."""
        ...

    def step_alone(self, network: Net, optimizer: Optimizer) -> None:
        """In `wrap_step`: the optimizer's step for one network by its gradients, which are gone
        afterwards; the step of the run then leaves its weights alone."""
        ...

    def replay(self) -> AbstractContextManager[None]:
        """Inside it the closure runs another pass over the same batch: equal views and draws, no
        statistics updated twice."""
        ...

    @property
    def reported(self) -> "ReportedNetwork":
        """`reported()`: the network of the reported metrics, the EMA network if a method evaluates
        it, or all networks that vote as one; `reported(raw=True)`: the trained one."""
        ...

    def reporting(self) -> AbstractContextManager[Network]:
        """The reported network with the BatchNorm moments that evaluation uses."""
        ...

    def evaluation_view(self, batch: dict[str, Any]) -> Any:
        """The raw view of a batch {"data", "targets", "index"} of an evaluation loader."""
        ...

    def training_samples(self, count: int) -> tuple[Embedded, dict[str, Tensor]]:
        """Labeled training samples as evaluation sees them, with their targets by task: up to
        `count`, drawn by the seed, equal on all ranks. For measurements that fit something."""
        ...

    def predict_logits(
        self, view: Any, raw: bool = False, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits by task, [N, C], as the run reports them."""
        ...

    def predict(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> dict[str, Tensor]:
        """The same from the continuous input, with a graph if gradients are enabled. without: key
        of a method that leaves inputs and logits alone."""
        ...

    def remarks(
        self,
        embedded: Embedded,
        logits: Mapping[str, Tensor] | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Remark]:
        """What methods say about each sample, by `METHOD/NAME`. logits: those of `predict`, where
        they are known."""
        ...

    def predict_output(
        self,
        embedded: Embedded,
        raw: bool = False,
        index: Tensor | None = None,
        randomness: SampleRandomness | None = None,
        without: str = "",
    ) -> Output:
        """Features and logits of the reported network for an input that methods may have
        changed."""
        ...
