"""A watch around every point that a method fills: did the method change anything there?

    watch = Watch()
    outcome = trial(config, [watch.rows], before_build=watch.on)
    watch.idle(outcome)        # [("sam", "wrap_step"), ...]

So one run of many methods tells of each whether it takes effect, and where it does not, without a
second run that leaves it out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recipes.contract import Method
from recipes.setup.assemble import Assembly
from recipes.step import Step
from tests.support.declared_effects import Rows, averages, orders_samples, same
from tests.support.lab import Outcome

Call = Callable[..., Any]
# what the point returned, and whether it changed anything
Seen = tuple[Any, bool]


# -- what is compared ------------------------------------------------------------------------------
def all_same(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    for x, y in zip(a, b, strict=True):
        if (x is None) != (y is None):
            return False
        if x is not None and y is not None and not same(x, y):
            return False
    return True


def copies(values: list[Tensor | None]) -> list[Tensor | None]:
    return [None if value is None else value.detach().clone() for value in values]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


def structure_of(module: nn.Module) -> dict[str, Any]:
    """Which modules and parameters there are, in which mode, and which are trained."""
    modules = {f"module {name}": (type(m), m.training) for name, m in module.named_modules()}
    trained = {f"parameter {name}": p.requires_grad for name, p in module.named_parameters()}
    gates = {"gates": getattr(getattr(module, "network", None), "gates", None)}
    return modules | trained | gates


def tensors_differ(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    if before.keys() != after.keys():
        return True
    return any(not same(before[name], after[name]) for name in before)


# -- the points ------------------------------------------------------------------------------------
def changes_structure(call: Call, module: Any) -> Seen:
    """surgery(network), build(context)."""
    structure, tensors = structure_of(module), tensors_of(module)
    result = call(module)
    if structure_of(module) != structure:
        return result, True
    return result, tensors_differ(tensors, tensors_of(module))


def gives_groups(call: Call, context: Any) -> Seen:
    """parameter_groups(context)."""
    groups = call(context)
    return groups, any(group["params"] for group in groups)


def changes_inputs(call: Call, step: Step, context: Any) -> Seen:
    """prepare(step, context): another input, a further one, a request, or something counted."""
    requests: list[str] = []
    counted = tensors_of(context.method_modules)
    plain = step.request

    def request(*args: Any, **kwargs: Any) -> str:
        name = plain(*args, **kwargs)
        requests.append(name)
        return name

    before = copied_inputs(step)
    step.request = request  # type: ignore[method-assign]
    try:
        result = call(step, context)
    finally:
        del step.request
    if requests or tensors_differ(counted, tensors_of(context.method_modules)):
        return result, True
    return result, any(is_new(after, before) for after in copied_inputs(step))


def copied_inputs(step: Step) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """(x, targets) of every input."""
    return [
        (entry.embedded.x.detach().clone(), {t: y.clone() for t, y in entry.targets.items()})
        for entry in step.inputs.values()
    ]


def is_new(
    entry: tuple[Tensor, dict[str, Tensor]], known: list[tuple[Tensor, dict[str, Tensor]]]
) -> bool:
    """Whether an input has values, or a target, that none of the known ones has: the same input
    under another name is none."""
    x, targets = entry
    if not any(same(x, other) for other, _ in known):
        return True
    others = [(task, y) for _, known_targets in known for task, y in known_targets.items()]
    return not all(
        any(task == name and same(y, other) for name, other in others)
        for task, y in targets.items()
    )


def changes_logits(call: Call, step: Step, logits: Tensor, *rest: Any, **named: Any) -> Seen:
    """adjust(step, logits, …)."""
    result = call(step, logits, *rest, **named)
    return result, not same(result.detach(), logits.detach())


def changes_predictions(call: Call, logits: Tensor, *rest: Any, **named: Any) -> Seen:
    """infer(logits, …)."""
    result = call(logits, *rest, **named)
    return result, not same(result.detach(), logits.detach())


def changes_costs(call: Call, step: Step, logits: Tensor, *rest: Any, **named: Any) -> Seen:
    """class_losses(step, logits, …), of which None means -log p."""
    result = call(step, logits, *rest, **named)
    if result is None:
        return result, False
    usual = -torch.log_softmax(logits.detach(), dim=1)
    return result, not torch.allclose(result.detach(), usual, atol=1e-6)


def changes_weights_of_samples(call: Call, *args: Any, **named: Any) -> Seen:
    """sample_weights(step, logits, target, …), of which None means 1."""
    result = call(*args, **named)
    return result, result is not None and bool((result != 1).any())


def adds_terms(call: Call, step: Step, context: Any) -> Seen:
    """terms(step, context): a term that is not zero and has a gradient."""
    before = dict(step.terms)
    result = call(step, context)
    added = [term for name, term in step.terms.items() if before.get(name) is not term]
    with torch.no_grad():
        values = [term.weighted(term.reduced()) for term in added if term.values.requires_grad]
    return result, any(bool(value != 0) for value in values)


def changes_combination(call: Call, step: Step, context: Any) -> Seen:
    """combine(step, context): another gradient than that of the weighted sum."""
    weights = [p for p in context.parameters() if p.requires_grad]
    usual = sum(step.terms[name].weighted(loss) for name, loss in step.losses.items())
    # before the call, which may use up the graph
    expected = gradients(usual, weights)
    result = call(step, context)
    for ours, theirs in zip(gradients(result, weights), expected, strict=True):
        if (ours is None) != (theirs is None):
            return result, True
        if ours is not None and not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7):
            return result, True
    return result, False


def gradients(value: Any, weights: list[Any]) -> list[Tensor | None]:
    return list(torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True))


def changes_step(call: Call, closure: Call, optimizer: Any, context: Any) -> Seen:
    """wrap_step(closure, optimizer, context): the closure ran with other weights, or left other
    gradients than it does by itself."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    start = copies(weights)
    plain: list[Tensor | None] = []
    moved: list[bool] = []

    def watched() -> Any:
        moved.append(not all_same([w.detach() for w in weights], start))
        loss = closure()
        if not plain:
            plain.extend(copies([w.grad for w in weights]))
        return loss

    result = call(watched, optimizer, context)
    return result, any(moved) or not all_same([w.grad for w in weights], plain)


def changes_tensors(call: Call, *args: Any) -> Seen:
    """after_batch(step, context), after_step(step, context), surveyed(survey, table, context)."""
    context = args[-1]
    before = tensors_of(context)
    result = call(*args)
    return result, tensors_differ(before, tensors_of(context))


def changes_reported_input(call: Call, embedded: Any, *rest: Any, **named: Any) -> Seen:
    """transform_input(embedded, …)."""
    result = call(embedded, *rest, **named)
    return result, not same(result.x.detach(), embedded.x.detach())


def says_something(call: Call, *args: Any, **named: Any) -> Seen:
    """remark(embedded, logits, …): a value that is not zero."""
    result = call(*args, **named)
    return result, any(bool((remark.values != 0).any()) for remark in result.values())


def changes_vote(call: Call, logits: Any, *rest: Any, **named: Any) -> Seen:
    """vote(logits, …): another answer than that of the first network."""
    result = call(logits, *rest, **named)
    return result, not same(result.detach(), logits[0].detach())


POINTS: dict[str, Callable[..., Seen]] = {
    "surgery": changes_structure,
    "build": changes_structure,
    "parameter_groups": gives_groups,
    "prepare": changes_inputs,
    "adjust": changes_logits,
    "class_losses": changes_costs,
    "sample_weights": changes_weights_of_samples,
    "terms": adds_terms,
    "combine": changes_combination,
    "wrap_step": changes_step,
    "after_batch": changes_tensors,
    "after_step": changes_tensors,
    "surveyed": changes_tensors,
    "transform_input": changes_reported_input,
    "vote": changes_vote,
    "infer": changes_predictions,
    "remark": says_something,
}
# points of a finished run: tested beside export and the folder of a run
UNWATCHED = ("finish", "save_artifacts", "merge")


class Watch:
    """The effects of a run's methods, by key and point."""

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}
        self.effects: set[tuple[str, str]] = set()
        self.rows = Rows()

    def on(self, assembly: Assembly) -> None:
        """Watch the methods of an assembly from now on: the engine reaches a point through the
        method, and finds the watch there."""
        self.methods = dict(assembly.composition.methods)
        for key, method in self.methods.items():
            for point in filled(method):
                setattr(method, point, self._watched(key, point, getattr(method, point)))

    def _watched(self, key: str, point: str, call: Call) -> Call:
        def watched(*args: Any, **named: Any) -> Any:
            if (key, point) in self.effects:
                return call(*args, **named)
            result, effect = POINTS[point](call, *args, **named)
            if effect:
                self.effects.add((key, point))
            return result

        return watched

    def idle(self, outcome: Outcome) -> list[tuple[str, str]]:
        """Methods and points without effect in this run."""
        found = []
        for key, method in self.methods.items():
            declaration = method.declare()
            found += [(key, p) for p in filled(method) if (key, p) not in self.effects]
            if declaration.orders and not orders_samples(outcome, declaration, self.rows):
                found.append((key, "orders"))
            if declaration.teacher and not averages(outcome):
                found.append((key, "teacher"))
        return found


def filled(method: Method) -> list[str]:
    """The watched points that a method fills."""
    return [point for point in POINTS if method.implements(point)]
