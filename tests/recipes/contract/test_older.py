"""Methods written for version 0.1: old names of points, of fields, and signatures without `step`."""

import importlib.util

import pytest
import torch

from foundation import renamed
from recipes.contract import Declaration, Method, Probe
from recipes.contract.composition import compose
from recipes.contract.environment import Environment
from recipes.step import Input
from tests.support.command import REPOSITORY
from tests.support.harness import Setup, build, train

OLD = REPOSITORY / "tests" / "fixtures" / "version_0_1"


@pytest.fixture(autouse=True)
def nothing_printed(monkeypatch):
    monkeypatch.setattr(renamed, "_printed", set())


class OldPoints:
    """Every point as version 0.1 called it."""

    def __init__(self):
        self.calls = []

    def declare(self):
        return Declaration(
            kinds=("image",),
            slots=("cost",),
            views={"unlabeled": ("weak",)},
            exact_on_ranks=False,
            yields_teacher=True,
        )

    def surgery(self, network):
        self.calls.append("surgery")

    def build(self, recipe):
        self.calls.append("build")

    def prepare(self, step, recipe):
        self.calls.append("prepare")
        self.asked = step.request("unlabeled", "weak", counted=False)
        step.add(Input("more", step.embedding("unlabeled", "weak"), counted=False))
        assert recipe.forward_apart(step.embedding("unlabeled", "weak")).features.ndim == 2

    def adjust(self, logits, target, task, role, recipe):
        self.calls.append("adjust")
        return 2 * logits

    def cost(self, logits, task, role, recipe):
        self.calls.append("cost")
        return -logits.log_softmax(1)

    def weigh(self, logits, target, task, role, recipe):
        self.calls.append("weigh")
        return torch.full((len(logits),), 0.5)

    def terms(self, step, recipe):
        self.calls.append("terms")
        step.term(step.named(self.key, "label"), step.logits(self.asked, "label").square().sum(1))

    def wrap_step(self, closure, optimizer, recipe):
        self.calls.append("wrap_step")
        return closure()

    def after_batch(self, step, recipe):
        self.calls.append("after_batch")

    def after_step(self, step, recipe):
        self.calls.append("after_step")

    def receive(self, embedded, randomness, recipe):
        self.calls.append("receive")
        return embedded._replace(x=embedded.x + 1)

    def infer(self, logits, task, recipe):
        self.calls.append("infer")
        return logits + 1

    def leave(self, folder, recipe):
        self.calls.append(("leave", folder))

    def fold(self, network):
        self.calls.append(("fold", network))


def old_method() -> type[Method]:
    class Everything(OldPoints, Method):
        """Made anew: its line is printed when the class is created."""

    return Everything


class Today(Method):
    """The same losses with the points of today."""

    declaration = Declaration(views={"unlabeled": ("weak",)})

    def prepare(self, step, context):
        step.request("unlabeled", "weak", updates_bn_stats=False)

    def adjust(self, step, logits, target, task, role, context):
        return 2 * logits

    def class_losses(self, step, logits, task, role, context):
        return -logits.log_softmax(1)

    def sample_weights(self, step, logits, target, task, role, context):
        return torch.full((len(logits),), 0.5)

    def terms(self, step, context):
        step.term(self.key, step.logits("unlabeled/weak", "label").square().sum(1))


def test_every_old_point_is_called_and_trains_as_its_successor(tmp_path):
    method = old_method()()
    result = train({"mine": method}, steps=1)
    assert result.losses == train({"mine": Today()}, steps=1).losses
    assert method.calls == [
        *("surgery", "build", "wrap_step", "prepare", "adjust", "cost", "weigh", "terms"),
        *("after_batch", "after_step"),
    ]
    method.calls.clear()
    result.recipe.predict_logits(torch.rand(2, 3, 8, 8))
    method.save_artifacts(tmp_path, result.recipe)
    method.merge(result.recipe.network)
    assert method.calls == [
        "receive",
        "infer",
        ("leave", tmp_path),
        ("fold", result.recipe.network),
    ]


def test_one_line_names_class_and_points(capsys):
    old_method()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "old_method.<locals>.Everything: cost, weigh, receive, leave, fold, adjust(…) of version 0.1 "
        "is now class_losses, sample_weights, transform_input, save_artifacts, merge, adjust(step, …)"
    )
    old_method()
    assert capsys.readouterr().err == ""


def test_old_fields_of_a_declaration(capsys):
    d = Declaration(kinds=("text",), exact_on_ranks=False, yields_teacher=True)
    assert d == Declaration(modalities=("text",), ddp_exact=False, accepts_any_teacher=True)
    assert capsys.readouterr().err.splitlines() == [
        f"{__name__}: Declaration({old}=…) is now Declaration({new}=…)"
        for old, new in (
            ("kinds", "modalities"),
            ("exact_on_ranks", "ddp_exact"),
            ("yields_teacher", "accepts_any_teacher"),
        )
    ]
    assert d.kinds == ("text",)


def test_the_old_slot_is_the_one_of_today():
    class New(Method):
        declaration = Declaration(slots=("class_losses",))

    environment = Environment("image", frozenset({"raw", "weak"}))
    composition = compose({"a": old_method()()}, environment)
    assert composition.slots == {"class_losses": "a"}
    with pytest.raises(Exception, match="both own what a class costs in the loss"):
        compose({"a": old_method()(), "b": New()}, environment)


def test_a_subclass_may_override_an_old_point_again():
    class Louder(old_method()):
        def weigh(self, logits, target, task, role, recipe):
            return 2 * super().weigh(logits, target, task, role, recipe)

    quiet, loud = train({"mine": old_method()()}, steps=1), train({"mine": Louder()}, steps=1)
    supervised = "train/supervised"
    assert loud.history[0][supervised] == pytest.approx(2 * quiet.history[0][supervised])


def test_helpers_of_a_method_of_today_are_left_alone(capsys):
    class Helping(Method):
        def cost(self, network):
            return 1

        def merge(self, network):
            """A point of today."""

        def fold(self, network):
            """A helper beside it."""

    assert not Helping().implements("class_losses")
    assert Helping.merge.__doc__ == "A point of today."
    assert capsys.readouterr().err == ""


def test_the_methods_of_the_run_that_version_0_1_made():
    spec = importlib.util.spec_from_file_location("old_entropy", OLD / "entropy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = train({"entropy": module.EntropyMinimization()}, steps=2).history
    assert all(row["train/entropy"] > 0 for row in rows)


def test_old_attributes_and_an_old_probe(capsys):
    class Measure(Probe):
        kinds = ("text",)

    assert Measure.modalities == ("text",)
    recipe = build({"today": Today()}, Setup())
    assert recipe.at is recipe.methods_at
    assert capsys.readouterr().err == f"{__name__}: Recipe.at is now Recipe.methods_at\n"
