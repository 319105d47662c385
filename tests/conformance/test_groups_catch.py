"""The groups catch a method that does nothing: one point after the other is broken on purpose, and
the failure names the method and the point."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from hydra.utils import get_class

from datamodules.samplers import ShuffledPasses
from recipes.config.groups import families
from recipes.services.teacher import Teacher
from recipes.step import Input
from tests.support.company import smallest_failing, verdict
from tests.support.groups import Group, allowed, covering
from tests.support.tiny_runs import METHODS, declared
from tests.support.watch import POINTS

Call = Callable[..., Any]


# -- methods that do nothing -----------------------------------------------------------------------
def nothing(plain: Call) -> Call:
    return lambda self, *args, **named: None


def no_groups(plain: Call) -> Call:
    return lambda self, context: []


def unchanged(plain: Call) -> Call:
    return lambda self, first, *rest, **named: first


def unadjusted(plain: Call) -> Call:
    return lambda self, step, logits, *rest, **named: logits


def ones(plain: Call) -> Call:
    return lambda self, step, logits, *rest, **named: logits.new_ones(len(logits))


def cross_entropy(plain: Call) -> Call:
    return lambda self, step, logits, *rest, **named: -logits.log_softmax(1)


def weighted_sum(plain: Call) -> Call:
    """The usual combination, whatever the method found out."""

    def combine(self: Any, step: Any, context: Any) -> Any:
        plain(self, step, context)
        if context.network.gates is not None:
            context.network.gates.reset()
        return sum(step.terms[name].weighted(loss) for name, loss in step.losses.items())

    return combine


def one_pass(plain: Call) -> Call:
    return lambda self, closure, optimizer, context: closure()


def zero_terms(plain: Call) -> Call:
    def terms(self: Any, step: Any, context: Any) -> None:
        before = set(step.terms)
        plain(self, step, context)
        for name in set(step.terms) - before:
            step.terms[name].values = step.terms[name].values * 0.0

    return terms


def terms_without_gradient(plain: Call) -> Call:
    def terms(self: Any, step: Any, context: Any) -> None:
        before = set(step.terms)
        plain(self, step, context)
        for name in set(step.terms) - before:
            step.terms[name].values = step.terms[name].values.detach()

    return terms


def same_input(plain: Call) -> Call:
    def prepare(self: Any, step: Any, context: Any) -> None:
        entry = step.inputs["labeled"]
        step.change("labeled", embedded=entry.embedded, targets=dict(entry.targets))

    return prepare


def same_input_again(plain: Call) -> Call:
    def prepare(self: Any, step: Any, context: Any) -> None:
        step.add(Input(self.key, step.inputs["labeled"].embedded))

    return prepare


def first_of_all(plain: Call) -> Call:
    return lambda self, logits, task, context: logits[0]


def silence(plain: Call) -> Call:
    def remark(self: Any, *args: Any, **named: Any) -> Any:
        found = plain(self, *args, **named)
        return {name: replace(one, values=0.0 * one.values) for name, one in found.items()}

    return remark


BROKEN: list[tuple[str, str, Callable[[Call], Call]]] = [
    ("trades", "prepare", same_input_again),
    ("awp", "wrap_step", one_pass),
    ("free_at", "after_step", nothing),
    ("smoothing", "transform_input", unchanged),
    ("logit_adjustment", "adjust", unadjusted),
    ("posthoc_logit_adjustment", "infer", unchanged),
    ("equalization_loss", "class_losses", cross_entropy),
    ("class_balanced_loss", "sample_weights", ones),
    ("focal_loss", "sample_weights", nothing),
    ("crt", "build", nothing),
    ("triplet", "terms", zero_terms),
    ("static", "combine", weighted_sum),
    ("mgda", "combine", weighted_sum),
    ("bitfit", "surgery", nothing),
    ("vpt", "parameter_groups", no_groups),
    ("mixup", "prepare", same_input),
    ("sam", "wrap_step", one_pass),
    ("fixmatch", "terms", zero_terms),
    ("pi_model", "terms", terms_without_gradient),
    ("temporal_ensembling", "after_batch", nothing),
    ("label_propagation", "surveyed", nothing),
    ("dividemix", "vote", first_of_all),
    ("feature_squeezing", "remark", silence),
]


def target(key: str) -> Any:
    return get_class(METHODS[key].node()["_target_"])


def group_with(*keys: str) -> tuple[str, Group]:
    """A full group of the suite that has these methods, and its kind of data; without a second pass
    where there is one. A broken `combine` leaves no graph for that, and in a small group none for
    the backward either."""
    kind = declared(keys[0]).modalities[0]
    groups = [group for group in covering(allowed(kind)) if set(keys) <= {*group}]
    return kind, min(groups, key=lambda group: (passes(group), -len(group)))


def passes(group: Group) -> int:
    return sum("two_passes" in declared(key).slots for key in group)


def assert_caught(key: str, point: str) -> None:
    found = verdict(*group_with(key))
    assert f"{key} has no effect at {point}" in found
    assert f"the smallest subset that fails is {key}:" in found


@pytest.mark.parametrize(
    ("key", "point", "break_it"), [pytest.param(*case, id="-".join(case[:2])) for case in BROKEN]
)
def test_a_method_that_does_nothing_at_a_point_is_named(key, point, break_it, monkeypatch):
    monkeypatch.setattr(target(key), point, break_it(getattr(target(key), point)))
    assert_caught(key, point)


def test_an_average_that_never_moves_is_named(monkeypatch):
    monkeypatch.setattr(Teacher, "update", lambda *args: None)
    assert_caught("ema", "teacher")


def test_an_order_that_is_the_usual_one_is_named(monkeypatch):
    key = "class_balanced_sampling"
    declaration = declared(key)

    def usual(targets: Any, batch_size: int, total: int, seed: int, stream: str) -> Any:
        return ShuffledPasses(len(next(iter(targets.values()))), seed, stream)

    orders = dict.fromkeys(declaration.orders, usual)
    plain = target(key).declare

    def declare(self: Any) -> Any:
        found = plain(self)
        object.__setattr__(found, "orders", orders)
        return found

    monkeypatch.setattr(target(key), "declare", declare)
    assert_caught(key, "orders")


def test_a_method_of_every_family_and_every_point_are_broken_above():
    keys = {key for key, _, _ in BROKEN} | {"ema", "class_balanced_sampling"}
    assert {METHODS[key].family for key in keys} == set(families())
    assert {point for _, point, _ in BROKEN} == set(POINTS)


def test_two_methods_that_fail_only_together_are_found(monkeypatch):
    """Mixup that does nothing beside an averaged network."""
    plain = target("mixup").prepare

    def prepare(self: Any, step: Any, context: Any) -> None:
        if context.teacher is None:
            plain(self, step, context)

    monkeypatch.setattr(target("mixup"), "prepare", prepare)
    kind, group = group_with("mixup", "ema")
    subset, found = smallest_failing(kind, group)
    assert set(subset) in [{"mixup", other} for other in group if declared(other).teacher]
    assert found == ["mixup has no effect at prepare"]


def test_numbers_that_are_not_finite_and_errors_are_faults(monkeypatch):
    def broken(self: Any, logits: Any, *rest: Any, **named: Any) -> Any:
        raise RuntimeError("wrong shape")

    monkeypatch.setattr(target("logit_adjustment"), "adjust", broken)
    found = verdict(*group_with("logit_adjustment"))
    assert "RuntimeError: wrong shape" in found
    monkeypatch.setattr(
        target("logit_adjustment"),
        "adjust",
        lambda self, step, logits, *rest, **named: logits * torch.inf,
    )
    found = verdict(*group_with("logit_adjustment"))
    assert "smallest subset that fails is logit_adjustment" in found


def test_groups_hold_exactly_the_pairs_they_are_given():
    keys = list(METHODS)[:12]
    pairs = [pair for pair in combinations(keys, 2) if keys[3] not in pair or keys[7] in pair]
    groups = covering(pairs, size=4)
    assert {pair for group in groups for pair in combinations(group, 2)} == set(pairs)
    assert max(map(len, groups)) == 4
