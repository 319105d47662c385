"""Which methods meet, whether they may, and in which order: decided from declarations, before data
or device."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from datamodules.samplers import MakeOrder
from foundation.errors import ConfigErrors, UserError
from recipes.contract.context import Context
from recipes.contract.declaration import Declaration
from recipes.contract.method import Method
from recipes.contract.older import current_declaration
from recipes.contract.vocabulary import SLOTS, unknown_streams, unknown_words
from recipes.networks.requests import EmbeddingRequest, TeacherRequest
from recipes.step.criterion import Criterion


@dataclass(frozen=True)
class Environment:
    """What the run offers to methods; all of it known from the config alone.

    kind: `image` or `text`. views: base names of the views the data set can make (`weak`,
    `strong`). tasks: how many heads there will be, None where that is not known.
    """

    kind: str
    views: frozenset[str]
    data: str = "data"
    tasks: int | None = None
    accumulate: int = 1
    precision: str = "32-true"
    devices: int = 1
    compile: bool = False
    families: Mapping[str, str] = field(default_factory=dict)

    def option(self, key: str) -> str:
        """How a user names a method on the command line, e.g. `regularization=mixup`."""
        return f"{self.families[key]}={key}" if key in self.families else f"methods.{key}"


@dataclass
class Composition:
    """Methods in running order, with what they asked for merged."""

    methods: dict[str, Method]
    declarations: dict[str, Declaration]
    views: dict[str, tuple[str, ...]]
    slots: dict[str, str]
    orders: dict[str, MakeOrder]
    teacher: TeacherRequest | None
    evaluates_teacher: bool
    embedding: EmbeddingRequest | None = None

    @property
    def streams(self) -> set[str]:
        return set(self.views)

    @property
    def changes_evaluation(self) -> bool:
        """Whether metrics are of another network or other logits than the raw network's."""
        points = ("transform_input", "infer")
        return self.evaluates_teacher or any(self.implementing(point) for point in points)

    def implementing(self, point: str) -> list[Method]:
        """The methods that implement a point of the contract, in order."""
        return [method for method in self.methods.values() if method.implements(point)]

    def criterion(self, context: Context) -> Criterion:
        """The classification loss as the methods change it."""
        return Criterion(
            [_with_context(m.adjust, context) for m in self.implementing("adjust")],
            [_with_context(m.sample_weights, context) for m in self.implementing("sample_weights")],
            [_with_context(m.class_losses, context) for m in self.implementing("class_losses")],
        )


def _with_context(point: Callable[..., Any], context: Context) -> Callable[..., Any]:
    """A point of a method without its last argument."""

    def call(*args: Any) -> Any:
        return point(*args, context)

    return call


def base_view(name: str) -> str:
    """The transform behind a view name: a trailing digit only asks for another draw (`weak2` ->
    `weak`)."""
    return name.rstrip("0123456789")


def compose(methods: Mapping[str, Method], environment: Environment) -> Composition:
    """Resolve the declarations of `methods` (config key -> method).

    Raises UserError with one line for every refusal: both names, the reason, the remedy.
    """
    for key, method in methods.items():
        method.key = key
    declarations = {key: current_declaration(method.declare()) for key, method in methods.items()}
    faults = [
        *_unknown(declarations, environment),
        *_unmet(declarations, environment),
        *_collisions(declarations, environment),
    ]
    teacher, clashes = _teacher(declarations, environment)
    embedding, differing = _embedding(declarations, environment)
    faults += [*clashes, *differing]
    if faults:
        raise ConfigErrors(faults)
    order = _order(declarations)
    return Composition(
        methods={key: methods[key] for key in order},
        declarations={key: declarations[key] for key in order},
        views=_views(declarations[key] for key in order),
        slots={slot: key for key in order for slot in declarations[key].slots},
        orders={stream: make for key in order for stream, make in declarations[key].orders.items()},
        teacher=teacher,
        evaluates_teacher=any(d.evaluates_teacher for d in declarations.values()),
        embedding=embedding,
    )


def _unknown(declarations: Mapping[str, Declaration], environment: Environment) -> Iterator[str]:
    """Words of declarations that nobody knows: typos."""
    streams = _views(declarations.values())
    for key, declaration in declarations.items():
        option = environment.option(key)
        yield from unknown_words(option, declaration)
        yield from unknown_streams(option, declaration, streams)


def _unmet(declarations: Mapping[str, Declaration], environment: Environment) -> list[str]:
    """Needs that the data or the trainer cannot meet."""
    faults = []
    data = f"data={environment.data}"
    for key, d in declarations.items():
        option = environment.option(key)
        if environment.kind not in d.modalities:
            modalities = " and ".join(d.modalities)
            faults.append(
                f"{option} works on {modalities} data, but {data} is {environment.kind}: "
                "leave one out"
            )
            continue
        if environment.tasks is not None and environment.tasks < d.tasks_at_least:
            remedy = "choose data with more, e.g. data=digits data.source.tasks=[label,parity]"
            faults.append(
                f"{option} needs {d.tasks_at_least} tasks or more, {data} has {environment.tasks}: "
                f"{remedy}"
            )
        for stream, names in d.views.items():
            missing = sorted({base_view(view) for view in names} - environment.views)
            have = ", ".join(sorted(environment.views))
            for view in missing:
                remedy = f"give it a data.views.{view}"
                faults.append(
                    f"{option} needs the view '{view}' of the {stream} stream, {data} makes "
                    f"{have}: {remedy}"
                )
        if environment.accumulate > 1 and not d.accumulation:
            setting = f"trainer.accumulate_grad_batches={environment.accumulate}"
            faults.append(
                f"{option} is not exact with {setting}: set it to 1 and raise data.batch_size"
            )
        if d.precisions is not None and environment.precision not in d.precisions:
            setting = f"trainer.precision={environment.precision}"
            faults.append(
                f"{option} does not work in {setting}: use one of {', '.join(d.precisions)}"
            )
        if environment.compile and d.uncompiled:
            faults.append(f"{option} cannot be compiled: {d.uncompiled}; set trainer.compile=false")
    return faults


def _collisions(declarations: Mapping[str, Declaration], environment: Environment) -> Iterator[str]:
    """Pairs that own one slot or order one stream, or of which one refuses a tag of the other."""
    only_one = "which only one method can: leave one out"
    for (a, first), (b, second) in combinations(declarations.items(), 2):
        one, other = environment.option(a), environment.option(b)
        shared = [slot for slot in first.slots if slot in second.slots]
        for slot in shared:
            yield f"{one} and {other} both own {SLOTS.get(slot, repr(slot))}, {only_one}"
        for stream in first.orders.keys() & second.orders.keys():
            # the slot `sampler` is the order of the labeled stream
            if not (stream == "labeled" and "sampler" in shared):
                yield f"{one} and {other} both set the order of {stream} samples, {only_one}"
        yield from _refusals(one, first, other, second)
        yield from _refusals(other, second, one, first)


def _refusals(one: str, refusing: Declaration, other: str, met: Declaration) -> Iterator[str]:
    """One line for each tag of `other` that `one` refuses."""
    for tag, reason in refusing.refuses.items():
        if tag in met.tags:
            yield f"{one} cannot meet {other}: {reason}"


def _teacher(
    declarations: Mapping[str, Declaration], environment: Environment
) -> tuple[TeacherRequest | None, list[str]]:
    """The one averaged network that all who ask for it can share, or why they cannot."""
    requests = [(key, d.teacher) for key, d in declarations.items() if d.teacher]
    firm = [
        (key, request) for key, request in requests if not declarations[key].accepts_any_teacher
    ]
    requests = firm or requests[:1]
    if not requests:
        return None, []
    owner, request = requests[0]
    faults = []
    if environment.precision in ("16-true", "bf16-true"):
        remedy = environment.precision.replace("true", "mixed")
        faults.append(
            f"{environment.option(owner)} does not work in "
            f"trainer.precision={environment.precision}: an average of weights "
            f"freezes in half precision; use {remedy}"
        )
    return request, [*faults, *_differing(requests, "averaged network", environment)]


def _embedding(
    declarations: Mapping[str, Declaration], environment: Environment
) -> tuple[EmbeddingRequest | None, list[str]]:
    """The one embedding head of all who ask for it, or why they cannot share it."""
    requests = [(key, d.embedding) for key, d in declarations.items() if d.embedding]
    return (requests[0][1] if requests else None), _differing(requests, "embedding", environment)


def _differing(
    requests: Sequence[tuple[str, TeacherRequest | EmbeddingRequest]],
    what: str,
    environment: Environment,
) -> list[str]:
    """A fault for each request that is not equal to the first one."""
    faults = []
    for key, other in requests[1:]:
        owner, wanted = requests[0][0], asdict(requests[0][1])
        differences = [
            f"{name} {value} against {asdict(other)[name]}"
            for name, value in wanted.items()
            if value != asdict(other)[name]
        ]
        if differences:
            faults.append(
                f"{environment.option(owner)} and {environment.option(key)} share one {what} "
                f"but want different ones ({', '.join(differences)}): "
                "make the settings equal or leave one out"
            )
    return faults


def _views(declarations: Iterable[Declaration]) -> dict[str, tuple[str, ...]]:
    """Requests of all methods, merged; the labeled stream always has its weak view."""
    merged: dict[str, dict[str, None]] = {"labeled": {"weak": None}}
    for d in declarations:
        for stream, names in d.views.items():
            merged.setdefault(stream, {}).update(dict.fromkeys(names))
    return {stream: tuple(names) for stream, names in merged.items()}


def _order(declarations: Mapping[str, Declaration]) -> list[str]:
    """Topological order over tags; methods that nothing separates keep the order of the config."""
    after: dict[str, set[str]] = {key: set() for key in declarations}
    for a, first in declarations.items():
        for b, second in declarations.items():
            if a != b and (
                set(first.before) & set(second.tags) or set(second.after) & set(first.tags)
            ):
                after[b].add(a)
    order: list[str] = []
    while len(order) < len(after):
        ready = [key for key in after if key not in order and after[key] <= set(order)]
        if not ready:
            circle = ", ".join(key for key in after if key not in order)
            raise UserError(f"methods {circle} each want to run before the other: leave one out")
        order.append(ready[0])
    return order
