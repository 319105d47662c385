"""What a method declares, read before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datamodules.samplers import MakeOrder
from recipes.networks.requests import EmbeddingRequest, TeacherRequest


@dataclass(frozen=True)
class Declaration:
    """What composition must know about a method. Read before data or device is touched.

    kinds: data it works on. tasks_at_least: heads the network must have.
    views: views it asks for, by stream; a stream named here is loaded.
    slots: things only one method may own, e.g. `mixer`, `pseudo_labels`, `prior_correction`.
    tags: properties other methods may care about. refuses: tag -> reason why it cannot meet a
        method with that tag.
    before, after: tags of methods whose `prepare`, `adjust` and `terms` must run later or earlier.
    orders: in which order a stream's samples come, by stream: balanced, in classes of k. One method
        may say so.
    teacher: the averaged network it needs. yields_teacher: another method's will do as well, its
    own settings count only where nobody else asks for one. evaluates_teacher: evaluation uses that
    network, the raw one beside it. embedding: the embedding head it needs;
    `step.outputs[name].logits["embedding"]` is then [N, dim]. accumulation: works when a step is
    several micro-batches. exact_on_ranks: n ranks with 1/n of the batch each give the gradients of
    one rank with the whole. sharded: the same where every rank has a part of each parameter
        (`trainer.strategy=fsdp`); a method that says so asks the network by its forward alone, and
        has no parameters.
    precisions: None for all, else those that work. uncompiled: why the network that it makes is no
    single graph, None where it is.
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
