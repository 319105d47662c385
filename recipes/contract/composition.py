"""Whether the methods of a run can be combined, and in which order they run: resolved from
declarations, before data or device are used."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

from datamodules.clock import Clock
from datamodules.samplers import MakeOrder
from datamodules.streams import StreamRequest
from foundation.errors import ConfigErrors, UserError, nearest
from recipes.contract.context import Context
from recipes.contract.declaration import Declaration
from recipes.contract.environment import Environment
from recipes.contract.method import Method
from recipes.contract.older import current_declaration
from recipes.contract.shared import (
    several_answers,
    shared_embedding,
    shared_networks,
    shared_teacher,
)
from recipes.contract.vocabulary import SLOTS, TAGS, unknown_streams, unknown_words
from recipes.networks.requests import EmbeddingRequest, NetworkRequest, TeacherRequest, Twin
from recipes.step.criterion import Criterion


@dataclass
class Composition:
    """The methods in the order in which they run, and their merged requests.

    live: when the order of a stream may change, by stream: at each survey of its method.
    """

    methods: dict[str, Method]
    declarations: dict[str, Declaration]
    views: dict[str, tuple[str, ...]]
    slots: dict[str, str]
    orders: dict[str, MakeOrder]
    teacher: TeacherRequest | None
    evaluates_teacher: bool
    embedding: EmbeddingRequest | None = None
    own_streams: dict[str, StreamRequest] = field(default_factory=dict)
    live: dict[str, list[Clock]] = field(default_factory=dict)
    networks: dict[str, NetworkRequest] = field(default_factory=dict)

    @property
    def streams(self) -> set[str]:
        return set(self.views)

    @property
    def changes_evaluation(self) -> bool:
        """Whether metrics differ from those of the raw network's logits."""
        points = ("transform_input", "vote", "infer")
        return self.evaluates_teacher or any(self.implementing(point) for point in points)

    def answering(self) -> list[str]:
        """The twins that answer beside the trained network, by name; empty where it answers
        alone."""
        for method in self.implementing("vote"):
            networks = self.declarations[method.key].networks
            return [name for name, request in networks.items() if isinstance(request, Twin)]
        return []

    def implementing(self, point: str) -> list[Method]:
        """The methods that implement a point of the contract, in order."""
        return [method for method in self.methods.values() if method.implements(point)]

    def taking_turns(self, slot: str) -> list[Method]:
        """The methods that share a slot, by name: whatever the order of the command."""
        keys = sorted(key for key, d in self.declarations.items() if slot in d.turns)
        return [self.methods[key] for key in keys]

    def criterion(self, context: Context) -> Criterion:
        """The classification loss with the methods' changes."""
        return Criterion(
            [_with_context(m.adjust, context) for m in self.implementing("adjust")],
            [_with_context(m.sample_weights, context) for m in self.implementing("sample_weights")],
            [_with_context(m.class_losses, context) for m in self.implementing("class_losses")],
        )


def _with_context(point: Callable[..., Any], context: Context) -> Callable[..., Any]:
    """A point of a method with its last argument bound."""

    def call(*args: Any) -> Any:
        return point(*args, context)

    return call


def base_view(name: str) -> str:
    """The transform of a view: a trailing digit only means another draw (`weak2` -> `weak`)."""
    return name.rstrip("0123456789")


def compose(methods: Mapping[str, Method], environment: Environment) -> Composition:
    """Resolve the declarations of `methods` (config key -> method).

    Raises ConfigErrors, a UserError with one line per error: both names, the reason, the remedy.
    """
    for key, method in methods.items():
        method.key = key
    declarations = {key: current_declaration(method.declare()) for key, method in methods.items()}
    teacher, teacher_errors = shared_teacher(declarations, environment)
    embedding, embedding_errors = shared_embedding(declarations, environment)
    networks, network_errors = shared_networks(declarations, environment)
    voting = [key for key, method in methods.items() if method.implements("vote")]
    errors = [
        *_unknown(declarations, environment),
        *_unmet(declarations, environment),
        *_unmet_by_settings(methods.values(), environment),
        *_alone(declarations, environment),
        *_collisions(declarations, environment),
        *teacher_errors,
        *embedding_errors,
        *network_errors,
        *several_answers(declarations, voting, environment),
    ]
    if errors:
        raise ConfigErrors(errors)
    ordered = {key: declarations[key] for key in _order(declarations)}
    slots: dict[str, str] = {}
    orders: dict[str, MakeOrder] = {}
    own_streams: dict[str, StreamRequest] = {}
    live: dict[str, list[Clock]] = {}
    for key, declaration in ordered.items():
        for slot in declaration.slots:
            slots[slot] = f"{slots[slot]} and {key}, by turns" if slot in slots else key
        orders |= declaration.orders
        own_streams |= declaration.streams
        if declaration.surveys:
            clocks = [survey.when for survey in declaration.surveys]
            live |= dict.fromkeys(declaration.orders, clocks)
    return Composition(
        methods={key: methods[key] for key in ordered},
        declarations=ordered,
        views=_views(ordered.values()),
        slots=slots,
        orders=orders,
        teacher=teacher,
        evaluates_teacher=any(d.evaluates_teacher for d in declarations.values()),
        embedding=embedding,
        own_streams=own_streams,
        live=live,
        networks=networks,
    )


def _unknown(declarations: Mapping[str, Declaration], environment: Environment) -> Iterator[str]:
    """Words of declarations that are not in the vocabulary: typos."""
    streams = _views(declarations.values())
    for key, declaration in declarations.items():
        option = environment.option(key)
        yield from unknown_words(option, declaration)
        yield from unknown_streams(option, declaration, streams)


def _unmet(declarations: Mapping[str, Declaration], environment: Environment) -> list[str]:
    """Needs that the data or the trainer do not meet."""
    data = f"data={environment.data}"
    errors = []
    for key, declaration in declarations.items():
        option = environment.option(key)
        if environment.kind not in declaration.modalities:
            modalities = " and ".join(declaration.modalities)
            errors.append(
                f"{option} works on {modalities} data, but {data} is {environment.kind}: "
                "leave one out"
            )
            continue
        errors += _unmet_by_data(option, declaration, environment)
        errors += _unmet_by_trainer(option, declaration, environment)
    return errors


def _unmet_by_settings(methods: Iterable[Method], environment: Environment) -> list[str]:
    """Needs of the methods' settings that the run does not meet."""
    errors = []
    for method in methods:
        try:
            method.check(environment)
        except UserError as error:
            errors.append(str(error))
    return errors


def _unmet_by_data(
    option: str, declaration: Declaration, environment: Environment
) -> Iterator[str]:
    data = f"data={environment.data}"
    least = declaration.tasks_at_least
    if environment.tasks is not None and environment.tasks < least:
        yield (
            f"{option} needs {least} tasks or more, {data} has {environment.tasks}: "
            "choose data with more, e.g. data=digits data.source.tasks=[label,parity]"
        )
    for stream, request in declaration.streams.items():
        if request.part not in {"labeled", "unlabeled", *environment.sources}:
            yield (
                f"{option} needs the set '{request.part}' for its stream '{stream}', and {data} is "
                f"alone: name it, data.sources={{{request.part}: PLACE}}"
            )
    available = ", ".join(sorted(environment.views))
    parts = {"labeled", "unlabeled", "val", *environment.sources}
    for survey in declaration.surveys:
        if survey.part not in parts:
            yield (
                f"{option} surveys the part '{survey.part}', which no run of {data} has: "
                f"{nearest(survey.part, parts)}"
            )
    for stream, names in declaration.views.items():
        for view in sorted({base_view(name) for name in names} - environment.views):
            yield (
                f"{option} needs the view '{view}' of the {stream} stream, {data} makes "
                f"{available}: give it a data.views.{view}"
            )


def _unmet_by_trainer(
    option: str, declaration: Declaration, environment: Environment
) -> Iterator[str]:
    if environment.accumulate > 1 and not declaration.accumulation:
        setting = f"trainer.accumulate_grad_batches={environment.accumulate}"
        yield f"{option} is not exact with {setting}: set it to 1 and raise data.batch_size"
    precisions = declaration.precisions
    if precisions is not None and environment.precision not in precisions:
        setting = f"trainer.precision={environment.precision}"
        yield f"{option} does not work in {setting}: use one of {', '.join(precisions)}"
    if environment.compile and declaration.uncompiled:
        yield f"{option} cannot be compiled: {declaration.uncompiled}; set trainer.compile=false"


def _alone(declarations: Mapping[str, Declaration], environment: Environment) -> Iterator[str]:
    """Methods that require another one, which is not there."""
    for key, declaration in declarations.items():
        carried: set[str] = set()
        for other_key, other in declarations.items():
            if other_key != key:
                carried.update(other.tags)
        for tag, reason in declaration.requires.items():
            if tag in TAGS and tag not in carried:
                yield f"{environment.option(key)} works only beside another method: {reason}"


def _collisions(declarations: Mapping[str, Declaration], environment: Environment) -> Iterator[str]:
    """Pairs of methods that own one slot or order one stream, or of which one refuses the other."""
    only_one = "which only one method can: leave one out"
    for (a, first), (b, second) in combinations(declarations.items(), 2):
        one = environment.option(a)
        other = environment.option(b)
        shared = [slot for slot in first.slots if slot in second.slots]
        by_turns = set(first.turns) & set(second.turns)
        for slot in shared:
            if slot in by_turns:
                continue
            yield f"{one} and {other} both own {SLOTS.get(slot, repr(slot))}, {only_one}"
        for stream in first.orders.keys() & second.orders.keys():
            # the slot `sampler` is the order of the labeled stream
            if not (stream == "labeled" and "sampler" in shared):
                yield f"{one} and {other} both set the order of {stream} samples, {only_one}"
        for stream in first.streams.keys() & second.streams.keys():
            if first.streams[stream] != second.streams[stream]:
                yield f"{one} and {other} both declare the stream {stream}, {only_one}"
        yield from _refusals(one, first, other, second)
        yield from _refusals(other, second, one, first)


def _refusals(one: str, refusing: Declaration, other: str, met: Declaration) -> Iterator[str]:
    """One line for each tag of `other` that `one` refuses."""
    for tag, reason in refusing.refuses.items():
        if tag in met.tags:
            yield f"{one} cannot be combined with {other}: {reason}"


def _views(declarations: Iterable[Declaration]) -> dict[str, tuple[str, ...]]:
    """The merged requests of all methods; the labeled stream always has its weak view."""
    merged: dict[str, dict[str, None]] = {"labeled": {"weak": None}}
    for d in declarations:
        for stream, names in d.views.items():
            merged.setdefault(stream, {}).update(dict.fromkeys(names))
    return {stream: tuple(names) for stream, names in merged.items()}


def _order(declarations: Mapping[str, Declaration]) -> list[str]:
    """Topological order over tags; methods without a constraint keep the order of the config."""
    after: dict[str, set[str]] = {key: set() for key in declarations}
    for (a, first), (b, second) in permutations(declarations.items(), 2):
        if set(first.before) & set(second.tags) or set(second.after) & set(first.tags):
            after[b].add(a)
    order: list[str] = []
    while len(order) < len(after):
        ready = [key for key in after if key not in order and after[key] <= set(order)]
        if not ready:
            cycle = ", ".join(key for key in after if key not in order)
            raise UserError(f"methods {cycle} each want to run before the other: leave one out")
        order.append(ready[0])
    return order
