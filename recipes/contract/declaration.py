"""What a method declares, read before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datamodules.samplers import MakeOrder
from foundation.renamed import older_fields
from recipes.networks.requests import EmbeddingRequest, TeacherRequest


@older_fields(kinds="modalities", exact_on_ranks="ddp_exact", yields_teacher="accepts_any_teacher")
@dataclass(frozen=True)
class Declaration:
    """What composition must know about a method. Read before data or device is touched.

    modalities: data it works on, `image` or `text`.
    tasks_at_least: heads the network must have.
    views: views it needs, by stream; a stream named here is loaded.
    slots: things only one method may own, of `vocabulary.SLOTS`.
    orders: the order in which a stream's samples come, by stream; one method may set it.
    tags: properties other methods may care about, of `vocabulary.TAGS`.
    refuses: tag -> reason why it cannot run beside a method with that tag.
    before, after: tags of methods whose points must run later or earlier.
    teacher: the EMA network it needs.
    accepts_any_teacher: another method's teacher will do as well; its own settings count only where
        nobody else asks for one.
    evaluates_teacher: metrics are of the EMA network; those of the raw one have the prefix `raw/`.
    embedding: the embedding head it needs; `step.outputs[name].logits["embedding"]` is [N, dim].
    accumulation: works when a step has several micro-batches.
    ddp_exact: n ranks with 1/n of the batch each give the gradients of one rank with all of it.
    ddp_difference: where they do not, how n ranks differ from one; the plan prints it.
    sharded: exact where every rank has a part of each parameter (`trainer.strategy=fsdp`): the
        method calls the network's forward only, and has no parameters.
    precisions: those that work; None for all.
    uncompiled: why the network cannot be compiled as one graph; None where it can.
    """

    modalities: tuple[str, ...] = ("image", "text")
    tasks_at_least: int = 1
    views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slots: tuple[str, ...] = ()
    orders: Mapping[str, MakeOrder] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    teacher: TeacherRequest | None = None
    accepts_any_teacher: bool = False
    evaluates_teacher: bool = False
    embedding: EmbeddingRequest | None = None
    accumulation: bool = True
    ddp_exact: bool = True
    ddp_difference: str = ""
    sharded: bool = False
    precisions: tuple[str, ...] | None = None
    uncompiled: str | None = None
