"""The data of one training step.

    batch ─ streams ─ views ─ inputs ─ one forward ─ outputs ─ adjusted logits ─ terms ─ loss

Methods read and add entries; the engine (`recipe.py`) runs the forward. Inputs have names:
`labeled` is the supervised input, and `step.request("unlabeled", "strong")` requests the forward of
another view and returns the name of its output. Two methods that request the same view share one
forward.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.views.image.raw import to_unit
from foundation.randomness import Draw, Randomness
from foundation.renamed import older_arguments, older_attributes, older_fields
from recipes.step.criterion import Criterion, Role
from recipes.step.terms import Term

# task -> class index [N] (-1: no label), or dense [N, C] once mixed or smoothed
Targets = dict[str, Tensor]
# `student`, `teacher` (the EMA network), or a name of `Declaration.networks`
Net = str


class Embedded(NamedTuple):
    """The continuous input of a network. Images: `x` [N, C, H, W] in [0, 1], `mask` None. Text: `x`
    is the token embedding [N, L, D], `mask` [N, L] is True on real tokens, `content` [N, L] on
    those of the text itself, not on special tokens; None if unknown."""

    x: Tensor
    mask: Tensor | None = None
    content: Tensor | None = None


class Output(NamedTuple):
    """The output of a network: `features` [N, D] (with features by task, their mean),
    `logits[task]` [N, C], and `taps`, the features of inner stages that a method requested."""

    features: Tensor
    logits: dict[str, Tensor]
    taps: Mapping[str, Tensor] = {}


@dataclass
class Stream:
    """Raw samples of one stream: `data` (uint8 pixels or word ids), `targets` by task, stable
    sample `index` [N], and `views` by name that were made with the batch."""

    name: str
    data: Any
    targets: Targets
    index: Tensor
    views: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.index.shape[0]


@older_fields(counted="updates_bn_stats")
@dataclass
class Input:
    """One input to forward: embedded data, targets if it has any, and the network.

    grad: False allows a forward without a graph; if two methods request the input, True wins.
    network: `student`, `teacher` for the EMA teacher (always without a graph), or a name of
        `Declaration.networks`.
    updates_bn_stats: False forwards it separately: batch normalization uses the statistics of this
        input, and running statistics are not updated.
    """

    name: str
    embedded: Embedded
    targets: Targets = field(default_factory=dict)
    grad: bool = True
    network: Net = "student"
    updates_bn_stats: bool = True

    @property
    def size(self) -> int:
        return self.embedded.x.shape[0]


@dataclass
class PseudoLabels:
    """A method's predictions for the unlabeled stream: for diagnostics, alignment and the report.

    probabilities: [N, C] in float32, no gradient.
    labels: [N] class indices.
    mask: [N] in [0, 1] or booleans.
    confidence: [N] max_c q_c, computed from the probabilities if it is not given.
    """

    probabilities: Tensor
    labels: Tensor
    mask: Tensor
    confidence: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.confidence is None:
            self.confidence = self.probabilities.amax(1)


@older_attributes({"named": "term_name", "believe": "publish_pseudo_labels"})
class Step:
    """One micro-batch, from its streams to the loss.

    tasks: names of the heads.
    replay: a further pass over the same batch for the same optimizer step (SAM's second pass):
        views and draws repeat exactly, and statistics must not be updated again.
    scratch: a method's own values for this batch, under its key, from `prepare` to `wrap_step`,
        `after_batch` and `after_step`. All passes of a batch share it.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        randomness: Randomness,
        make_view: Callable[[Stream, str, Randomness], Any],
        embed: Callable[[Any, str], Embedded],
        criterion: Criterion,
        progress: "Progress",
        tasks: tuple[str, ...] = ("label",),
        replay: bool = False,
        scratch: dict[str, Any] | None = None,
    ):
        self.streams = streams
        self.randomness = randomness
        self.progress = progress
        self.tasks = tasks
        self.replay = replay
        self.scratch: dict[str, Any] = {} if scratch is None else scratch
        self._make_view = make_view
        self._embed = embed
        self._criterion = criterion
        self._views: dict[tuple[str, str], Any] = {}
        self._embedded: dict[tuple[str, str, str], Embedded] = {}
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, Output] = {}
        # the student's features with a graph as the heads get them, one tensor per forward;
        # `outputs` has slices of them
        self.representations: list[Tensor] = []
        self.terms: dict[str, Term] = {}
        self.losses: dict[str, Tensor] = {}
        self.pseudo: dict[str, PseudoLabels] = {}
        self.scalars: dict[str, Tensor] = {}

    # -- views and inputs --------------------------------------------------------------------------
    def view(self, stream: str, view: str) -> Any:
        """A view of a whole stream, computed on the device once per step: `weak`, `weak2`, `strong`
        …"""
        if (stream, view) not in self._views:
            source = self.streams[stream]
            made = source.views.get(view)
            if made is None:
                made = self._make_view(source, view, self.randomness)
            elif made.dtype == torch.uint8:
                made = to_unit(made)
            self._views[stream, view] = made
        return self._views[stream, view]

    def view_at(self, stream: str, view: str, position: int) -> Any:
        """The view as drawn at another micro-batch: for a batch that is repeated with the view it
        had."""
        return self._make_view(self.streams[stream], view, replace(self.randomness, step=position))

    def view_draw(self, stream: str, view: str, purpose: str) -> Draw:
        """The random numbers that a view of this step draws for a purpose."""
        return self.randomness.draw(f"{stream}/{view}/{purpose}", self.streams[stream].size)

    def embedding(self, stream: str, view: str, network: Net = "student") -> Embedded:
        """The continuous input of a view, computed once a step."""
        key = (stream, view, network)
        if key not in self._embedded:
            self._embedded[key] = self._embed(self.view(stream, view), network)
        return self._embedded[key]

    @older_arguments(counted="updates_bn_stats")
    def request(
        self,
        stream: str,
        view: str,
        *,
        grad: bool = True,
        network: Net = "student",
        updates_bn_stats: bool = True,
    ) -> str:
        """Request the forward of a view; returns the name of its output. Equal requests share one
        forward."""
        name = f"{stream}/{view}" if network == "student" else f"{network}:{stream}/{view}"
        if name in self.inputs:
            self.inputs[name].grad |= grad
            self.inputs[name].updates_bn_stats |= updates_bn_stats
        else:
            embedded = self.embedding(stream, view, network)
            self.add(Input(name, embedded, {}, grad, network, updates_bn_stats))
        return name

    def add(self, entry: Input) -> str:
        """Add another input, e.g. a mixed or attacked one; its name must be new."""
        if entry.name in self.inputs:
            raise ValueError(
                f"input '{entry.name}' exists already; give the new input another name"
            )
        self.inputs[entry.name] = entry
        return entry.name

    def change(self, name: str, **changes: Any) -> None:
        """Replace fields of an input, e.g. `step.change("labeled", embedded=…, targets=…)`."""
        self.inputs[name] = replace(self.inputs[name], **changes)

    # -- outputs -----------------------------------------------------------------------------------
    def logits(self, name: str, task: str) -> Tensor:
        """Raw logits [N, C] in float32: for pseudo-labels, confidences, evaluation."""
        return self.outputs[name].logits[task].float()

    def loss_logits(self, name: str, task: str, role: Role, target: Tensor | None = None) -> Tensor:
        """Logits after the methods' training-time adjustments: for losses only. `role` is `labeled`
        for a loss on true targets and `pseudo` for one on targets that the model predicted.
        target: [N] or [N, C]; by default the target of the input, if it has one."""
        target = self._target(name, task, target)
        return self._criterion.adjust(self, self.logits(name, task), target, task, role)

    def classify(self, name: str, task: str, role: Role, target: Tensor | None = None) -> Tensor:
        """The criterion of classification, [N]: Π weights · cross-entropy of the adjusted logits;
        see `loss_logits`."""
        target = self._target(name, task, target)
        if target is None:
            raise ValueError(f"input '{name}' has no targets for task '{task}'; give them")
        return self._criterion(self, self.logits(name, task), target, task, role)

    def _target(self, name: str, task: str, target: Tensor | None) -> Tensor | None:
        if target is None and name in self.inputs:
            return self.inputs[name].targets.get(task)
        return target

    # -- terms -------------------------------------------------------------------------------------
    def term(self, name: str, values: Tensor, **fields: Any) -> None:
        """Add a loss term (see `Term`)."""
        if name in self.terms:
            raise ValueError(f"a loss term named '{name}' exists already")
        self.terms[name] = Term(name, values, **fields)

    def weighted_sum(self) -> Tensor:
        """Σ weight · loss over the terms, whose reduced values are in `losses`."""
        return reduce(add, [self.terms[name].weighted(loss) for name, loss in self.losses.items()])

    def term_name(self, name: str, task: str) -> str:
        """`name` with one task, `name/task` with several: for terms and scalars of every task."""
        return name if len(self.tasks) == 1 else f"{name}/{task}"

    def scalar(self, name: str, value: Tensor | float) -> None:
        """Log a diagnostic; it stays on the device until the logging interval ends."""
        self.scalars[name] = torch.as_tensor(value).detach()

    def publish_pseudo_labels(self, task: str, pseudo: PseudoLabels) -> None:
        """Publish the pseudo-labels of the unlabeled stream."""
        self.pseudo[task] = pseudo


@dataclass(frozen=True)
class Progress:
    """The progress of the run: `step` optimizer steps done, `total` planned."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        return min(self.step / max(self.total, 1), 1.0)
