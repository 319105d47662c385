"""What a checkpoint must look like, to be resumed and to be predicted with: the one door for files
that others may have written or that a disk has damaged.

The models judge and convert nothing: what is loaded is the content as it was read.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, AliasPath, BeforeValidator, Field, model_validator
from tokenizers import Tokenizer
from torch import Tensor

from recipes.checkpointing.checked import ClosedForm, Form

LIGHTNING = re.compile(r"2\.\d+(\.\w+)*")  # versions whose checkpoints are read


# -- kinds of entries ------------------------------------------------------------------------------
def lightning_version(version: str) -> str:
    if not LIGHTNING.fullmatch(version):
        raise ValueError("a version 2 of pytorch-lightning")
    return version


def number_or_tensor(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise ValueError("a number")
    return value


def whole_or_name(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("the number of a parameter")
    return value


def image_size(value: Any) -> Any:
    """null, a side, or height and width."""
    sides = value if isinstance(value, list) else [value]
    right = all(type(side) is int and side > 0 for side in sides) and 0 < len(sides) <= 3
    if value is not None and not right:
        raise ValueError("null or the size of images")
    return value


Count = Annotated[int, Field(ge=0)]
Version = Annotated[str, AfterValidator(lightning_version)]
Scalar = Annotated[Any, BeforeValidator(number_or_tensor)]
Parameter = Annotated[Any, BeforeValidator(whole_or_name)]
ImageSize = Annotated[Any, BeforeValidator(image_size)]


# -- the state of training -------------------------------------------------------------------------
class Sums(Form):
    """One entry of `engine.meters`: a row for each rank."""

    names: list[str]
    values: Tensor
    steps: Tensor

    @model_validator(mode="after")
    def rows_fit(self) -> "Sums":
        ranks = len(self.values) if self.values.ndim == 2 else 0
        columns = self.values.shape[-1] if self.values.ndim == 2 else 0
        # numerators, then the denominators of the ratios among them
        named = len(self.names) <= columns <= 2 * len(self.names)
        if not (ranks and named and list(self.steps.shape) == [ranks]):
            raise ValueError("a row of sums for each rank and a column for each name")
        return self


class Numbers(Form):
    latest: dict[str, float]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    skipped: Count
    meters: list[Sums]


class Group(Form):
    params: list[Parameter]
    lr: Scalar


class OptimizerState(Form):
    state: dict[Parameter, Any]
    param_groups: Annotated[list[Group], Field(min_length=1)]


class SchedulerState(Form):
    last_epoch: Count
    base_lrs: Annotated[list[Scalar], Field(min_length=1)]


class Ticks(Form):
    ready: Count
    completed: Count


class Progress(Form):
    total: Ticks
    current: Ticks


class OptimizerSteps(Form):
    step: Progress


class OptimizerProgress(Form):
    optimizer: OptimizerSteps


class Position(Form):
    position: Count


class Streams(Form):
    loaders: Annotated[list[Position], Field(alias="combined_loader")] = Field(default_factory=list)


class FitLoop(Form):
    """Lightning's counters, by its own names."""

    epochs: Annotated[Progress, Field(alias="epoch_progress")]
    batches: Annotated[Progress, Field(alias="epoch_loop.batch_progress")]
    streams: Annotated[Streams | None, Field(alias="state_dict")] = None
    steps: Annotated[
        OptimizerProgress, Field(alias="epoch_loop.automatic_optimization.optim_progress")
    ]


class Loops(Form):
    fit_loop: FitLoop


class BestState(Form):
    """What Lightning remembers of the best checkpoint."""

    best_model_path: str
    best_model_score: Tensor | None
    best_k_models: dict[str, Tensor] = Field(default_factory=dict)


class LastState(Form):
    due: bool = False


def of_best_checkpoint(callbacks: Any) -> Any:
    if not isinstance(callbacks, dict):
        return callbacks
    return {
        name: state for name, state in callbacks.items() if str(name).startswith("ModelCheckpoint")
    }


class History(Form):
    """Logged rows as `runs.history` packs them."""

    names: list[str]
    steps: Tensor
    values: Tensor
    given: Tensor

    @model_validator(mode="after")
    def shapes_fit(self) -> "History":
        shape = [len(self.steps) if self.steps.ndim == 1 else -1, len(self.names)]
        if not list(self.values.shape) == list(self.given.shape) == shape:
            raise ValueError("a row for each step and a column for each name")
        return self


class ChangeForm(Form):
    step: Count
    key: str
    old: str
    new: str


class Origin(Form):
    """The part of the provenance that resuming reads; the first versions had none."""

    config: str | None = None
    changes: list[ChangeForm] = Field(default_factory=list)


class Weights(Form):
    """What every use of a checkpoint needs."""

    state_dict: dict[str, Tensor]
    global_step: Count
    version: Annotated[Version, Field(alias="pytorch-lightning_version")]


class Resumable(Weights):
    """A checkpoint from which training can resume. What Lightning alone reads of it is judged while
    it reads (`runs.restoring`)."""

    numbers: Numbers
    optimizer_states: Annotated[list[OptimizerState], Field(min_length=1, max_length=1)]
    lr_schedulers: Annotated[list[SchedulerState], Field(min_length=1, max_length=1)]
    loops: Loops
    best: Annotated[
        dict[str, BestState], BeforeValidator(of_best_checkpoint), Field(alias="callbacks")
    ]
    last: Annotated[
        LastState | None, Field(validation_alias=AliasPath("callbacks", "LastCheckpoint"))
    ] = None
    history: History | None = None
    data: Annotated[Position | None, Field(alias="StreamDataModule")] = None
    identity: dict[str, str] | None = None
    provenance: Origin | None = None

    @model_validator(mode="after")
    def counters_agree(self) -> "Resumable":
        steps = self.loops.fit_loop.steps.optimizer.step.total.completed
        if steps != self.global_step:
            raise ValueError(f"global_step {steps}, as its loops say, not {self.global_step}")
        return self


# -- what prediction needs -------------------------------------------------------------------------
class TokenizerForm(ClosedForm):
    name: str
    backend: str
    pad: Count
    mask: Count | None
    sensitive: bool
    prefix: list[Count]
    suffix: list[Count]

    @model_validator(mode="after")
    def loads(self) -> "TokenizerForm":
        try:
            vocabulary = Tokenizer.from_str(self.backend).get_vocab(with_added_tokens=True)
        except Exception as error:  # the library raises nothing more precise
            raise ValueError("a backend that the tokenizers library reads") from error
        ids = [self.pad, *self.prefix, *self.suffix]
        ids += [self.mask] if self.mask is not None else []
        if max(ids) > max(vocabulary.values(), default=-1):
            raise ValueError("special ids that its vocabulary has")
        return self


class FactsForm(ClosedForm):
    """`datamodules.facts.DatasetFacts`."""

    classes: Annotated[dict[str, list[str]], Field(min_length=1)]
    counts: dict[str, list[Count]]
    missing: list[str]
    sizes: dict[str, Count]
    tokenizer: TokenizerForm | None

    @model_validator(mode="after")
    def tasks_agree(self) -> "FactsForm":
        lengths = {task: len(names) for task, names in self.classes.items()}
        if {task: len(counts) for task, counts in self.counts.items()} != lengths:
            raise ValueError("a count for every class of every task")
        if not set(self.missing) <= set(self.classes):
            raise ValueError("names of tasks in missing")
        return self


class Provenance(Form):
    config: str
    facts: FactsForm
    input_size: ImageSize
    encoder: str | None
    vocab_size: Count | None
    files: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def words_are_known(self) -> "Provenance":
        if self.encoder is not None and self.facts.tokenizer is None:
            raise ValueError("facts.tokenizer to be there, as there is a text encoder")
        return self


class Predictable(Weights):
    provenance: Provenance
