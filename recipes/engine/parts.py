"""The parts of a recipe."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from foundation.randomness import Randomness
from recipes.contract.composition import Composition
from recipes.contract.probe import Probe
from recipes.networks.network import Network
from recipes.services.statistics import ClassStatistics
from recipes.step.step import Stream
from recipes.tasks.classification import Task

MakeView = Callable[[Stream, str, Randomness], Any]
# from the recipe, whose file imports this one
MakeOptimizer = Callable[[Any], tuple[Optimizer, Any]]
ReferenceBatches = Callable[[], Iterable[dict[str, dict[str, Any]]]]
DrawnSamples = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class RecipeParts:
    """The parts of a recipe, without its data.

    network: before surgery.
    tasks: one per head.
    composition: the methods of this run.
    statistics: class counts of the labeled training samples.
    sizes: numbers of samples by stream.
    make_view: makes a view of a stream on the device.
    view_states: what views learn, by name; saved with the run.
    make_optimizer: from the recipe, the optimizer and its scheduler by step.
    make_network: makes another network like `network`, for a second one; None: there is none.
    reference_batches: training batches on which BatchNorm moments are estimated; None: no estimate.
    drawn_samples: from a number, a batch of at most so many labeled training samples, for
        measurements that fit something; None: there are no data.
    probes: measurements in addition to the tasks' metrics.
    classifies: evaluation measures the heads.
    evaluated: the parts that are evaluated, by stage, `val` or `test`; the set's own last.
    monitor: the metric that every validation must have.
    seed: of the run.
    total_steps: optimizer steps of the whole run.
    log_every: optimizer steps between two transfers of metrics from the device.
    skip_nonfinite: skip batches with a loss that is NaN or infinite.
    backend: compiler of the networks, None for none.
    channels_last: memory format of convolution kernels.
    identity: saved in every checkpoint, so that a different run does not resume from it.
    provenance: saved in every checkpoint; `recipes.load` builds the recipe from it without data.
    """

    network: Network
    tasks: Sequence[Task]
    composition: Composition
    statistics: ClassStatistics
    sizes: dict[str, int]
    make_view: MakeView
    make_optimizer: MakeOptimizer
    make_network: Callable[[], Network] | None = None
    view_states: Mapping[str, nn.Module] = field(default_factory=dict)
    reference_batches: ReferenceBatches | None = None
    drawn_samples: DrawnSamples | None = None
    probes: Sequence[Probe] = ()
    classifies: bool = True
    evaluated: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {"val": ["val"], "test": ["test"]}
    )
    monitor: str | None = None
    seed: int = 0
    total_steps: int = 1
    log_every: int = 50
    skip_nonfinite: bool = False
    backend: str | None = None
    channels_last: bool | Literal["auto"] = False
    identity: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
