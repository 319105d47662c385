"""The points that a method may implement, where a run calls them:

    method.surgery(network)                                  # once, all methods, before any build
    method.build(context)                                    # once: own modules and tables
    for step in range(total_steps):
        for batch in micro_batches:
            method.prepare(step, context)                    # change inputs, request forwards
            outputs = forward(step.inputs)                   # one pass where meaning allows
            for task in tasks:
                logits = method.adjust(step, logits, …)      # the logits that losses see
                losses = method.class_losses(step, …)        # one owner; default -log p
                losses *= method.sample_weights(step, …)     # factors of all methods multiply
            method.terms(step, context)                      # add named, unreduced loss terms
            loss = method.combine(step, context)             # one owner; default: weighted sum
            loss.backward()
            method.after_batch(step, context)                # tables with a row per sample
        method.wrap_step(closure, optimizer, context)        # around batches and update
        method.after_step(step, context)                     # averages, memories, statistics
        method.surveyed(survey, table, context)              # when a survey it declared is due
    method.finish(context)                                   # once, after the last step
    evaluation:  method.transform_input(x, …) -> networks -> method.vote(logits, …) ->
                 method.infer(logits, …)
                 method.remark(x, logits, …)                 # named values for each sample
    end:         method.save_artifacts(folder, context)
    export:      method.merge(network)

All points are optional, and methods do not write a training step of their own. A method is also a
Lightning callback: `on_fit_start` and the other hooks work, and Lightning passes them the recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pytorch_lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from foundation.randomness import SampleRandomness
from recipes.contract.declaration import Declaration
from recipes.contract.older import adapt_method
from recipes.contract.remark import Remark
from recipes.contract.survey import Survey, Table
from recipes.step.criterion import Role
from recipes.step.step import Embedded, Step

if TYPE_CHECKING:
    from recipes.contract.context import Context
    from recipes.contract.environment import Environment
    from recipes.networks.network import Network

Closure = Callable[[], Any]
F = TypeVar("F", bound=Callable[..., Any])


def point(function: F) -> F:
    """Mark a function of `Method` as a point of the contract."""
    function.is_point = True  # type: ignore[attr-defined]
    return function


class Method(Callback):
    """Base of all methods. Subclasses take their settings as annotated constructor arguments with
    defaults.

    `key` is the name in the config (`methods.KEY`), set by composition. Tensors are never
    attributes of a method. State of the run is a module that `build` registers under
    `context.method_modules[self.key]`: it is moved to the run's device and part of its checkpoint.
    State of a batch is `step.scratch[self.key]`.
    """

    declaration: ClassVar[Declaration] = Declaration()
    # setting -> the value with which the method changes nothing; a `weight` of 0 does in all
    neutral: ClassVar[Mapping[str, float]] = {}
    # files of `save_artifacts` that later stages may name: artifact -> name beside the checkpoints
    artifacts: ClassVar[Mapping[str, str]] = {}
    # settings that name a file from which the structure of the network follows: every checkpoint
    # has its text
    structure_files: ClassVar[tuple[str, ...]] = ()
    key: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adapt_method(cls)

    def declare(self) -> Declaration:
        """The declaration of this instance, if it depends on the settings."""
        return self.declaration

    def check(self, environment: "Environment") -> None:
        """Raise UserError if the run lacks what these settings need beyond the declaration, e.g. a
        picture large enough; before data are read."""

    def idle_settings(self) -> list[str]:
        """Settings whose values leave this method without effect. They are allowed: the plan, the
        page and a line before the run name them."""
        neutral = {"weight": 0, **self.neutral}
        return [name for name, value in neutral.items() if getattr(self, name, None) == value]

    def remarks(self) -> list[str]:
        """What a user should know before the run, one line each: the plan, the page and a `note:`
        line say it."""
        return []

    @property
    def state_key(self) -> str:
        return f"method:{self.key}"

    def parameter_groups(self, context: "Context") -> list[dict[str, Any]]:
        """Optimizer groups for the method's own parameters: `params` and any of `lr`,
        `weight_decay`, `constant` (the rate does not follow the schedule)."""
        return []

    def implements(self, point: str) -> bool:
        """Whether this method overrides a point; the engine calls only those that do."""
        return getattr(type(self), point) is not getattr(Method, point)

    def module(self, context: "Context") -> Any:
        """The module registered under this method's key."""
        return context.method_modules[self.key]

    # -- once --------------------------------------------------------------------------------------
    @point
    def surgery(self, network: "Network") -> None:
        """Freeze parts of the network and attach modules, which are registered in `network.deltas`.

        The plan's copy of the network, on the meta device, gets the same surgery, so the method
        must not store references to it."""

    @point
    def build(self, context: "Context") -> None:
        """Register the method's modules in `context.method_modules`."""

    # -- every batch -------------------------------------------------------------------------------
    @point
    def prepare(self, step: Step, context: "Context") -> None:
        """Change inputs and targets; request further forwards."""

    @point
    def adjust(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor | None,
        task: str,
        role: Role,
        context: "Context",
    ) -> Tensor:
        """The logits [N, C] of the losses; evaluation and pseudo-labels use the raw ones."""
        return logits

    @point
    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: "Context"
    ) -> Tensor | None:
        """[N, C], the loss of each class if it were the true one, from adjusted logits; None:
        -log p. A method that implements this takes the slot `class_losses`."""
        return None

    @point
    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: "Context",
    ) -> Tensor | None:
        """Factors of the samples' losses, from adjusted logits; a gradient through them is allowed.

        [N], or [N, C] by true class, which is exact for mixed targets as well; None: 1."""
        return None

    @point
    def terms(self, step: Step, context: "Context") -> None:
        """Add named, unreduced loss terms: `step.term(…)`."""

    @point
    def combine(self, step: Step, context: "Context") -> Tensor:
        """One scalar of all terms, whose reduced values are in `step.losses`."""
        return step.weighted_sum()

    @point
    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: "Context") -> Any:
        """Call `closure`, which runs the batches and their backward, and change gradients or
        weights before or after it. Then `context.current_step` is the last batch's first pass."""
        return closure()

    @point
    def after_batch(self, step: Step, context: "Context") -> None:
        """Once per micro-batch, after its last pass; `step` is its first pass. Tables are written
        here, so all passes of a batch read the same values."""

    @point
    def after_step(self, step: Step, context: "Context") -> None:
        """Once per optimizer step; `step` is the first pass of its last micro-batch."""

    @point
    def surveyed(self, survey: Survey, table: Table, context: "Context") -> None:
        """A survey that the method declared has been made; called between two steps, on all ranks.

        table: tensors on the host, equal on all ranks, one row for each sample in the order of the
            part: `index`, the stable numbers [M], and those that the survey takes. The engine does
            not keep it: a method writes into its own module what it needs later. A resumed run does
            not repeat a survey. Of a survey with gradients: one tensor for each parameter, on the
            device."""

    # -- end, evaluation, export -------------------------------------------------------------------
    @point
    def finish(self, context: "Context") -> None:
        """Once, after the last step of the run, before it is validated and saved: what the method
        changes here is part of the last metrics, of `last.ckpt` and of the export. All modules are
        in evaluation mode. A run of no steps calls it before its evaluation; an interrupted run
        does not call it."""

    @point
    def transform_input(
        self, embedded: Embedded, randomness: SampleRandomness, context: "Context"
    ) -> Embedded:
        """The input of the reported network in place of `embedded`; attacks differentiate through
        it."""
        return embedded

    @point
    def vote(self, logits: Sequence[Tensor], task: str, context: "Context") -> Tensor:
        """One answer [N, C] of several networks: of the trained one and the twins that the method
        declares. `logits` has an entry [N, C] for each, in this order. Evaluation, prediction and
        export give it; metrics of the trained network alone have the prefix `raw/`."""
        return logits[0]

    @point
    def infer(self, logits: Tensor, task: str, context: "Context") -> Tensor:
        """Logits [N, C] for evaluation and prediction."""
        return logits

    @point
    def remark(
        self,
        embedded: Embedded,
        logits: Mapping[str, Tensor],
        index: Tensor | None,
        context: "Context",
    ) -> Mapping[str, Remark]:
        """Values by name for each of these samples, for the evaluation, the report and the table of
        predictions, which name them `METHOD/NAME`. What has an alarm is a metric, too: the share of
        the samples above it, `PART/METHOD/NAME_flagged`.

        embedded: the input before any method changes it. logits: by task, as the run reports them.
        index: [N], for `context.predict`. Attacks differentiate through the values."""
        return {}

    @point
    def save_artifacts(self, folder: Path, context: "Context") -> None:
        """Write files to the run's checkpoint folder; called on the first rank only."""

    @point
    def merge(self, network: "Network") -> None:
        """Merge modules attached by `surgery` into the weights of this network, if possible, and
        remove them from `network.deltas`: the exported network then has its original structure."""


POINTS = tuple(name for name, entry in vars(Method).items() if getattr(entry, "is_point", False))
"""Names of all points, in the order above."""
