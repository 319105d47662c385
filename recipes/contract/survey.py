"""Surveys: what a method learns about a whole part of the data, in one pass between two steps."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from datamodules.clock import Clock
from recipes.contract.context import Context
from recipes.contract.remark import Remark

Table = Mapping[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """One batch of a survey.

    logits: [B, C] by task, without what methods change at inference; under `embedding` the
        embedding, if there is one.
    features: [B, d], the input of the heads; None for a network of another run, or for none.
    targets: int64 [B] by task, -1 for no label.
    index: int64 [B], the samples' stable numbers.
    remarks: called, gives what methods say about each sample, by `METHOD/NAME`; nothing for another
        network than `reported`.
    """

    logits: Mapping[str, Tensor]
    features: Tensor | None
    targets: Mapping[str, Tensor]
    index: Tensor
    remarks: Callable[[], Mapping[str, Remark]] = dict


@dataclass(frozen=True)
class Survey:
    """One pass over a part of the data, which gives a table with a row for each of its samples.

    name: of the survey, among those of its method.
    part: `labeled`, `unlabeled` (all training samples), `val`, or the name of a further set.
    take: the rows [B, …] of each table for a batch, by name; called on the device, without
        gradients.
    when: the moments at which it is made.
    network: `reported`: the one that evaluation uses, with its inputs; `student`: the trained one;
        or another of the run's, by name; `none`: nothing is forwarded, there are no logits.
    view: of the samples; without random draws.
    mode: `eval`, or `dropout`: evaluation with active dropout, whose draws depend on the sizes of
        batches and ranks.
    draws: passes, above 1 for `dropout`; tables then are [M, draws, …].
    gradients: `take` gives {"loss": [B]}, with gradients. The table has, by name of a trained
        parameter of the student, the mean over batches of the squared gradient of the batch's mean
        loss: the diagonal of the empirical Fisher information, for batches of one sample.
    clip: with `gradients`, the norm to which the gradient of each parameter is cut before it is
        squared; None: any.
    within: with `gradients`, a context around the pass, made of the run's: it may change the
        network, and what of it is trained, for this survey alone; None: none.
    batch: samples in a batch; None: as evaluation has.
    """

    name: str
    part: str
    take: Callable[[Seen], Mapping[str, Tensor]]
    when: Clock
    network: str = "reported"
    view: str = "raw"
    mode: Literal["eval", "dropout"] = "eval"
    draws: int = 1
    gradients: bool = False
    clip: float | None = None
    within: Callable[[Context], AbstractContextManager[None]] | None = None
    batch: int | None = None
