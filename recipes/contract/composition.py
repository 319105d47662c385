"""Which methods meet, whether they may, and in which order: decided from declarations, before data
or device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations

from datamodules.samplers import MakeOrder
from foundation.errors import ConfigErrors, UserError
from recipes.contract.declaration import Declaration
from recipes.contract.method import Method
from recipes.networks.requests import EmbeddingRequest, TeacherRequest

SLOTS = {
    "mixer": "the mixing of labeled inputs",
    "unlabeled_mixer": "the mixing of unlabeled inputs",
    "pseudo_labels": "the pseudo-labels of the unlabeled stream",
    "prior_correction": "the correction of the class prior",
    "smoothing": "the smoothing of targets",
    "cost": "what a class costs in the loss",
    "combine": "the combination of loss terms",
    "optimizer": "the optimizer",
    "two_passes": "the second pass of a step",
    "labeled_mask": "the mask of labeled samples",
    "attack": "the attack on labeled inputs",
    "sharing": "which layers tasks share",
    "sampler": "the order in which labeled samples come",
    "prompts": "the prompt tokens between the first token and the rest",
}


@dataclass(frozen=True)
class Situation:
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

    def filling(self, point: str) -> list[Method]:
        """The methods that fill a point of the contract, in order."""
        return [method for method in self.methods.values() if method.fills(point)]


def base_view(name: str) -> str:
    """The transform behind a view name: a trailing digit only asks for another draw (`weak2` ->
    `weak`)."""
    return name.rstrip("0123456789")


def compose(methods: Mapping[str, Method], situation: Situation) -> Composition:
    """Resolve the declarations of `methods` (config key -> method).

    Raises UserError with one line for every refusal: both names, the reason, the remedy.
    """
    for key, method in methods.items():
        method.key = key
    declarations = {key: method.declare() for key, method in methods.items()}
    faults = [*_unmet(declarations, situation), *_collisions(declarations, situation)]
    teacher, clashes = _teacher(declarations, situation)
    embedding, differing = _embedding(declarations, situation)
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


def _unmet(declarations: Mapping[str, Declaration], situation: Situation) -> list[str]:
    """Needs that the data or the trainer cannot meet."""
    faults = []
    data = f"data={situation.data}"
    for key, d in declarations.items():
        option = situation.option(key)
        if situation.kind not in d.kinds:
            kinds = " and ".join(d.kinds)
            faults.append(
                f"{option} works on {kinds} data, but {data} is {situation.kind}: leave one out"
            )
            continue
        if situation.tasks is not None and situation.tasks < d.tasks_at_least:
            remedy = "choose data with more, e.g. data=digits data.source.tasks=[label,parity]"
            faults.append(
                f"{option} needs {d.tasks_at_least} tasks or more, {data} has {situation.tasks}: "
                f"{remedy}"
            )
        for stream, names in d.views.items():
            missing = sorted({base_view(view) for view in names} - situation.views)
            have = ", ".join(sorted(situation.views))
            for view in missing:
                remedy = f"give it a data.views.{view}"
                faults.append(
                    f"{option} needs the view '{view}' of the {stream} stream, {data} makes "
                    f"{have}: {remedy}"
                )
        if situation.accumulate > 1 and not d.accumulation:
            setting = f"trainer.accumulate_grad_batches={situation.accumulate}"
            faults.append(
                f"{option} is not exact with {setting}: set it to 1 and raise data.batch_size"
            )
        if d.precisions is not None and situation.precision not in d.precisions:
            setting = f"trainer.precision={situation.precision}"
            faults.append(
                f"{option} does not work in {setting}: use one of {', '.join(d.precisions)}"
            )
        if situation.compile and d.uncompiled:
            faults.append(f"{option} cannot be compiled: {d.uncompiled}; set trainer.compile=false")
    return faults


def _collisions(declarations: Mapping[str, Declaration], situation: Situation) -> list[str]:
    """Pairs that own one slot, or of which one refuses a tag of the other."""
    faults = []
    for (a, first), (b, second) in combinations(declarations.items(), 2):
        one, other = situation.option(a), situation.option(b)
        for slot in first.slots:
            if slot in second.slots:
                what = SLOTS.get(slot, f"'{slot}'")
                faults.append(
                    f"{one} and {other} both own {what}, which only one method can: leave one out"
                )
        for (refusing, d), (_, met) in (
            ((one, first), (other, second)),
            ((other, second), (one, first)),
        ):
            partner = other if refusing == one else one
            reasons = [reason for tag, reason in d.refuses.items() if tag in met.tags]
            faults += [f"{refusing} cannot meet {partner}: {reason}" for reason in reasons]
    return faults


def _teacher(
    declarations: Mapping[str, Declaration], situation: Situation
) -> tuple[TeacherRequest | None, list[str]]:
    """The one averaged network that all who ask for it can share, or why they cannot."""
    requests = [(key, d.teacher) for key, d in declarations.items() if d.teacher]
    firm = [(key, request) for key, request in requests if not declarations[key].yields_teacher]
    requests = firm or requests[:1]
    if not requests:
        return None, []
    owner, request = requests[0]
    faults = []
    if situation.precision in ("16-true", "bf16-true"):
        remedy = situation.precision.replace("true", "mixed")
        faults.append(
            f"{situation.option(owner)} does not work in trainer.precision={situation.precision}: "
            f"an average of weights freezes in half precision; use {remedy}"
        )
    return request, [*faults, *_differing(requests, "averaged network", situation)]


def _embedding(
    declarations: Mapping[str, Declaration], situation: Situation
) -> tuple[EmbeddingRequest | None, list[str]]:
    """The one embedding head of all who ask for it, or why they cannot share it."""
    requests = [(key, d.embedding) for key, d in declarations.items() if d.embedding]
    return (requests[0][1] if requests else None), _differing(requests, "embedding", situation)


def _differing(
    requests: Sequence[tuple[str, TeacherRequest | EmbeddingRequest]],
    what: str,
    situation: Situation,
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
                f"{situation.option(owner)} and {situation.option(key)} share one {what} but want "
                "different "
                f"ones ({', '.join(differences)}): make the settings equal or leave one out"
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
