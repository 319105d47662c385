"""The contract of a method: a declaration that is read before anything is built, and the points it may fill.

The points, in the order a batch meets them; all are optional, and nobody else writes a training step:

    surgery     once, before every `build`: change the network itself
    build       once: extra modules, own parameter groups
    prepare     every batch: change inputs and targets, name further inputs to forward
    adjust      change the logits that losses see (evaluation and pseudo-labels see raw ones)
    cost        say what each class costs where it is the true one, in place of -log p (one owner)
    weigh       give every sample's loss a factor; those of several methods multiply
    terms       add named, unreduced loss terms
    combine     turn the terms into one scalar (one owner)
    wrap_step   nest a closure around the optimizer's closure
    after_batch once per micro-batch, when its last pass is over: tables with a row a sample
    after_step  once per real optimizer step: averages, memories, statistics
    receive     change the continuous input at evaluation and prediction
    infer       change logits at evaluation and prediction
    leave       at the end of the run: files beside its checkpoints
    fold        when a finished run is exported: what `surgery` attached becomes part of the weights
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from datamodules.samplers import MakeOrder
from foundation.randomness import SampleRandomness
from recipes.step.criterion import Role
from recipes.step.step import Embedded, Step

if TYPE_CHECKING:
    from recipes.engine.recipe import Recipe
    from recipes.networks.network import Network

Closure = Callable[[], Any]
Horizon = Annotated[float, Field(gt=0, le=1)]
BatchMoments = Literal["estimated", "kept"]


@dataclass(frozen=True)
class TeacherRequest:
    """An exponential moving average of the network, shared by all methods that ask for an equal one.

    decay: the largest a in θ' ← aθ' + (1-a)θ.
    warmup: use min(1 - 1/(t+1), a) at update t = 1, 2, …
    buffers: `copy` the student's, `ema` average them, `own` lets the teacher keep those of its own forwards.
    horizon: share of the run that the average looks back on: a is at most 1 - 1/(horizon · steps of the run); None: a
        is `decay` however long the run is.
    moments: what BatchNorm layers use when the averaged network is evaluated: `estimated` on training batches, or
        `kept`, the buffers as above.
    """

    decay: float
    warmup: bool = False
    buffers: Literal["copy", "ema", "own"] = "copy"
    horizon: float | None = None
    moments: BatchMoments = "kept"


@dataclass(frozen=True)
class EmbeddingRequest:
    """A head `embedding` beside those of the tasks, shared by all methods that ask for an equal one.

    dim: its width d. normalize: on the unit sphere, x / max(‖x‖, 1e-12).
    """

    dim: int
    normalize: bool = True


@dataclass(frozen=True)
class Declaration:
    """What composition must know about a method. Read before data or device is touched.

    kinds: data it works on. tasks_at_least: heads the network must have.
    views: views it asks for, by stream; a stream named here is loaded.
    slots: things only one method may own, e.g. `mixer`, `pseudo_labels`, `prior_correction`.
    tags: properties other methods may care about. refuses: tag -> reason why it cannot meet a method with that tag.
    before, after: tags of methods whose `prepare`, `adjust` and `terms` must run later or earlier.
    orders: in which order a stream's samples come, by stream: balanced, in classes of k. One method may say so.
    teacher: the averaged network it needs. yields_teacher: another method's will do as well, its own settings count
    only where nobody else asks for one. evaluates_teacher: evaluation uses that network, the raw one beside it.
    embedding: the embedding head it needs; `step.outputs[name].logits["embedding"]` is then [N, dim].
    accumulation: works when a step is several micro-batches. exact_on_ranks: n ranks with 1/n of the batch each
    give the gradients of one rank with the whole. sharded: the same where every rank has a part of each parameter
    (`trainer.strategy=fsdp`); a method that says so asks the network by its forward alone, and has no parameters.
    precisions: None for all, else those that work. uncompiled: why the network that it makes is no single graph, None
    where it is.
    """

    kinds: tuple[str, ...] = ("image", "text")
    tasks_at_least: int = 1
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slots: tuple[str, ...] = ()
    orders: Mapping[str, MakeOrder] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    teacher: TeacherRequest | None = None
    yields_teacher: bool = False
    evaluates_teacher: bool = False
    embedding: EmbeddingRequest | None = None
    accumulation: bool = True
    exact_on_ranks: bool = True
    sharded: bool = False
    precisions: tuple[str, ...] | None = None
    uncompiled: str | None = None


class Method(Callback):
    """Base of all methods. Subclasses take their settings as annotated constructor arguments with defaults.

    `key` is the name in the config (`methods.KEY`), set by composition. A method keeps its tensors in modules that
    it registers in `build`, never in itself: they then move with the recipe and lie in its checkpoint.
    """

    declaration: ClassVar[Declaration] = Declaration()
    key: str = ""

    def declare(self) -> Declaration:
        """The declaration of this instance, where it depends on the settings."""
        return self.declaration

    @property
    def state_key(self) -> str:
        return f"method:{self.key}"

    def surgery(self, network: "Network") -> None:
        """Freeze parts of the network, attach others; what is attached lies in `network.deltas`. The plan's sketch of
        the network, on the meta device, is treated the same, so nothing may be kept in the method."""

    def build(self, recipe: "Recipe") -> None: ...

    def parameter_groups(self, recipe: "Recipe") -> list[dict[str, Any]]:
        """Optimizer groups for the method's own parameters: `params` and any of `lr`, `weight_decay`."""
        return []

    def prepare(self, step: Step, recipe: "Recipe") -> None: ...

    def adjust(self, logits: Tensor, target: Tensor | None, task: str, role: Role, recipe: "Recipe") -> Tensor:
        return logits

    def cost(self, logits: Tensor, task: str, role: Role, recipe: "Recipe") -> Tensor | None:
        """[N, C] the loss that each class would give were it the true one, from adjusted logits; None: -log p. Whoever
        fills this takes the slot `cost`."""
        return None

    def weigh(self, logits: Tensor, target: Tensor, task: str, role: Role, recipe: "Recipe") -> Tensor | None:
        """Factors of the samples' losses, from adjusted logits, with gradient where they have one: [N], or [N, C] by
        the class that is the true one, which is exact for mixed targets as well; None: 1."""
        return None

    def terms(self, step: Step, recipe: "Recipe") -> None: ...

    def combine(self, step: Step, recipe: "Recipe") -> Tensor:
        return sum(step.terms[name].weight * loss for name, loss in step.losses.items())  # type: ignore[return-value]

    def wrap_step(self, closure: Closure, optimizer: Optimizer, recipe: "Recipe") -> Any:
        return closure()

    def after_batch(self, step: Step, recipe: "Recipe") -> None:
        """`step` is the first pass of the micro-batch. What is written here, a replay of the same batch does not
        read: all passes of a batch see the tables as they were before it."""

    def after_step(self, step: Step, recipe: "Recipe") -> None: ...

    def receive(self, embedded: Embedded, randomness: SampleRandomness, recipe: "Recipe") -> Embedded:
        """What the reported network sees in place of `embedded`; attacks differentiate through it."""
        return embedded

    def infer(self, logits: Tensor, task: str, recipe: "Recipe") -> Tensor:
        return logits

    def leave(self, folder: Path, recipe: "Recipe") -> None:
        """Write into the folder of the run's checkpoints; on the first rank alone."""

    def fold(self, network: "Network") -> None:
        """Put what `surgery` attached into the weights of this network, where they can take it up, and take it out of
        `network.deltas`: an exported network is then of the kind it was before."""

    def fills(self, point: str) -> bool:
        """Whether this method overrides a point; the engine calls only those that do."""
        return getattr(type(self), point) is not getattr(Method, point)

    def module(self, recipe: "Recipe") -> nn.Module:
        """The module registered under this method's key."""
        return recipe.method_modules[self.key]
