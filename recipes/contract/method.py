"""The contract of a method: a declaration that is read before anything is built, and the points it
may fill.

The points, in the order a batch meets them; all are optional, and nobody else writes a training
step:

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

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.randomness import SampleRandomness
from recipes.contract.declaration import Declaration
from recipes.step.criterion import Role
from recipes.step.step import Embedded, Step

if TYPE_CHECKING:
    from recipes.contract.context import Context
    from recipes.networks.network import Network

Closure = Callable[[], Any]


class Method(Callback):
    """Base of all methods. Subclasses take their settings as annotated constructor arguments with
    defaults.

    `key` is the name in the config (`methods.KEY`), set by composition. A method keeps its tensors
    in modules that it registers in `build`, never in itself: they then move with the recipe and lie
    in its checkpoint.
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
        """Freeze parts of the network, attach others; what is attached lies in `network.deltas`.
        The plan's sketch of the network, on the meta device, is treated the same, so nothing may be
        kept in the method."""

    def build(self, context: "Context") -> None: ...

    def parameter_groups(self, context: "Context") -> list[dict[str, Any]]:
        """Optimizer groups for the method's own parameters: `params` and any of `lr`,
        `weight_decay`."""
        return []

    def prepare(self, step: Step, context: "Context") -> None: ...

    def adjust(
        self, logits: Tensor, target: Tensor | None, task: str, role: Role, context: "Context"
    ) -> Tensor:
        return logits

    def cost(self, logits: Tensor, task: str, role: Role, context: "Context") -> Tensor | None:
        """[N, C] the loss that each class would give were it the true one, from adjusted logits;
        None: -log p. Whoever fills this takes the slot `cost`."""
        return None

    def weigh(
        self, logits: Tensor, target: Tensor, task: str, role: Role, context: "Context"
    ) -> Tensor | None:
        """Factors of the samples' losses, from adjusted logits, with gradient where they have one:
        [N], or [N, C] by the class that is the true one, which is exact for mixed targets as well;
        None: 1."""
        return None

    def terms(self, step: Step, context: "Context") -> None: ...

    def combine(self, step: Step, context: "Context") -> Tensor:
        return sum(step.terms[name].weight * loss for name, loss in step.losses.items())  # type: ignore[return-value]

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: "Context") -> Any:
        return closure()

    def after_batch(self, step: Step, context: "Context") -> None:
        """`step` is the first pass of the micro-batch. What is written here, a replay of the same
        batch does not read: all passes of a batch see the tables as they were before it."""

    def after_step(self, step: Step, context: "Context") -> None: ...

    def receive(
        self, embedded: Embedded, randomness: SampleRandomness, context: "Context"
    ) -> Embedded:
        """What the reported network sees in place of `embedded`; attacks differentiate through
        it."""
        return embedded

    def infer(self, logits: Tensor, task: str, context: "Context") -> Tensor:
        return logits

    def leave(self, folder: Path, context: "Context") -> None:
        """Write into the folder of the run's checkpoints; on the first rank alone."""

    def fold(self, network: "Network") -> None:
        """Put what `surgery` attached into the weights of this network, where they can take it up,
        and take it out of `network.deltas`: an exported network is then of the kind it was before.
        """

    def fills(self, point: str) -> bool:
        """Whether this method overrides a point; the engine calls only those that do."""
        return getattr(type(self), point) is not getattr(Method, point)

    def module(self, context: "Context") -> nn.Module:
        """The module registered under this method's key."""
        return context.method_modules[self.key]
