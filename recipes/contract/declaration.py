"""The declaration of a method, read before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datamodules.samplers import MakeOrder
from datamodules.streams import StreamRequest
from foundation.renamed import older_fields
from recipes.contract.survey import Survey
from recipes.networks.requests import EmbeddingRequest, NetworkRequest, TeacherRequest


@older_fields(kinds="modalities", exact_on_ranks="ddp_exact", yields_teacher="accepts_any_teacher")
@dataclass(frozen=True)
class Declaration:
    """The properties of a method that composition needs, read before data or device are used.

    modalities: data it works on, `image` or `text`.
    tasks_at_least: smallest number of heads of the network.
    views: views it needs, by stream; the streams named here are loaded.
    streams: streams of its own beside `labeled` and `unlabeled`: whose samples they have, and how
        many. Their views and order are declared as for those.
    slots: things that only one method may own, of `vocabulary.SLOTS`.
    turns: those of its slots that it shares with methods that declare the same: each batch belongs
        to one of them, drawn by their settings `turns` (`methods.mixing.has_turn`).
    orders: the order of a stream's samples, by stream; only one method may set it.
    tags: properties that other methods may refer to, of `vocabulary.TAGS`.
    refuses: tag -> reason why it cannot be combined with a method with that tag.
    requires: tag -> reason why another method with that tag must be in the run, and which to add.
    before, after: tags of methods whose points must run later or earlier.
    teacher: the EMA network it needs.
    accepts_any_teacher: another method's teacher is used if there is one, and its own settings only
        if no other method requests a teacher.
    evaluates_teacher: metrics are of the EMA network; those of the raw one have the prefix `raw/`.
    networks: networks beside the trained one, by name: a second one that trains (`Twin`), a copy
        that stays (`Snapshot`), that of another run (`Reference`). `context.networks[NAME]`; equal
        requests of several methods share one.
    embedding: the embedding head it needs; `step.outputs[name].logits["embedding"]` is [N, dim].
    surveys: passes over a part of the data that give it a table; see `Method.surveyed`. If it has
        orders too, they may change with each of its surveys.
    samples_in_batch, classes_in_batch: the fewest samples and classes of a batch from which it
        learns anything.
    accumulation: works when a step has several micro-batches.
    ddp_exact: n ranks with 1/n of the batch each give the gradients of one rank with all of it.
    ddp_difference: otherwise, how n ranks differ from one; the plan prints it.
    sharded: exact with sharded parameters (`trainer.strategy=fsdp`): the method only calls the
        network's forward, and has no parameters.
    precisions: supported precisions; None for all.
    lower_on_collapse: names of the settings to lower where a run falls to one class or to chance:
        the warning names them.
    uncompiled: why the network cannot be compiled as one graph; None if it can.
    """

    modalities: tuple[str, ...] = ("image", "text")
    tasks_at_least: int = 1
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    streams: Mapping[str, StreamRequest] = field(default_factory=dict)
    slots: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    orders: Mapping[str, MakeOrder] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    teacher: TeacherRequest | None = None
    accepts_any_teacher: bool = False
    evaluates_teacher: bool = False
    networks: Mapping[str, NetworkRequest] = field(default_factory=dict)
    embedding: EmbeddingRequest | None = None
    surveys: tuple[Survey, ...] = ()
    samples_in_batch: int = 1
    classes_in_batch: int = 1
    accumulation: bool = True
    ddp_exact: bool = True
    ddp_difference: str = ""
    sharded: bool = False
    precisions: tuple[str, ...] | None = None
    lower_on_collapse: tuple[str, ...] = ()
    uncompiled: str | None = None
