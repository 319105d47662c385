"""What a method or a measurement takes and refuses, in words for `--help`, as it declares."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes.contract import Declaration, Method
from recipes.contract.composition import SLOTS
from recipes.contract.probe import Probe
from recipes.networks.requests import Reference, Snapshot, Twin

Section = tuple[str, list[str]]


def declared(target: Callable[..., Any], node: DictConfig) -> list[Section]:
    """Sections with their lines; none for what is neither a method nor a measurement."""
    if not inspect.isclass(target):
        return []
    if issubclass(target, Probe):
        parts = ", ".join(target.parts)
        return [("Takes", [f"data: {', '.join(target.modalities)}", f"parts: {parts}"])]
    if not issubclass(target, Method):
        return []
    arguments = OmegaConf.to_container(node, resolve=False)
    assert isinstance(arguments, dict)
    given = {str(name): value for name, value in arguments.items() if name != "_target_"}
    declaration = target(**given).declare()
    return [("Takes", list(takes(declaration))), ("Refuses", list(refuses(declaration)))]


NETWORKS: dict[type, str] = {
    Twin: "a second one that trains with the first",
    Snapshot: "a frozen copy of the trained one",
    Reference: "that of another run",
}


def takes(d: Declaration) -> Iterator[str]:
    """The data and services that a method works on, its slots and tags."""
    yield f"data: {', '.join(d.modalities)}"
    if d.tasks_at_least > 1:
        yield f"tasks: at least {d.tasks_at_least}"
    for stream, views in d.views.items():
        yield f"views of the {stream} stream: {', '.join(views)}"
    if d.orders:
        yield f"decides the order of: {', '.join(d.orders)}"
    if d.teacher:
        shared = "; that of another method will do" if d.accepts_any_teacher else ""
        yield f"needs an averaged network (EMA){shared}"
    for name, request in d.networks.items():
        yield f"network {name}: {NETWORKS[type(request)]}"
    if d.embedding:
        yield f"needs an embedding head of width {d.embedding.dim}"
    for slot in d.slots:
        yield f"slot {slot}: {SLOTS.get(slot, slot)}"
    if d.tags:
        yield f"tags: {', '.join(d.tags)}"
    if d.before or d.after:
        order = {"before": d.before, "after": d.after}
        yield "runs " + ", ".join(f"{w} methods of {', '.join(t)}" for w, t in order.items() if t)


def refuses(d: Declaration) -> Iterator[str]:
    """What a method does not meet, with the reason."""
    absent = sorted({"image", "text"} - set(d.modalities))
    for kind in absent:
        yield f"data of {kind}s"
    for slot in d.slots:
        yield f"another method with the slot {slot}"
    for tag, reason in d.refuses.items():
        yield f"methods with the tag {tag}: {reason}"
    if not d.accumulation:
        yield "trainer.accumulate_grad_batches above 1"
    if d.precisions is not None:
        yield f"trainer.precision other than {', '.join(d.precisions)}"
    if d.uncompiled:
        yield f"trainer.compile=true: {d.uncompiled}"
    if not d.sharded:
        yield "trainer.strategy=fsdp"
