import pytest
import torch
from torch import nn

from methods.regularization.sam import SAM
from recipes.contract import POINTS, Declaration, Method
from tests.support.harness import Setup, build, fit, train


class Diary(Method):
    """Writes down when it is called."""

    def __init__(self, book: list, name: str):
        self.book, self.name = book, name

    def build(self, recipe):
        self.book.append((self.name, "build"))

    def prepare(self, step, recipe):
        assert step.outputs == {}
        self.book.append((self.name, "prepare"))

    def adjust(self, step, logits, target, task, role, recipe):
        self.book.append((self.name, "adjust", role))
        return logits

    def sample_weights(self, step, logits, target, task, role, recipe):
        self.book.append((self.name, "sample_weights", role))

    def terms(self, step, recipe):
        assert "supervised" in step.terms and "labeled" in step.outputs
        self.book.append((self.name, "terms"))

    def wrap_step(self, closure, optimizer, recipe):
        self.book.append((self.name, "in"))
        loss = closure()
        self.book.append((self.name, "out"))
        return loss

    def after_batch(self, step, recipe):
        assert not step.replay
        self.book.append((self.name, "closed", step.randomness.step))

    def after_step(self, step, recipe):
        self.book.append((self.name, "after", step.progress.step))

    def infer(self, logits, task, recipe):
        return logits + 1


def test_points_are_visited_in_order_and_the_first_method_wraps_the_others():
    book: list = []
    train({"a": Diary(book, "a"), "b": Diary(book, "b")}, steps=1)
    assert book == [
        ("a", "build"),
        ("b", "build"),
        ("a", "in"),
        ("b", "in"),
        ("a", "prepare"),
        ("b", "prepare"),
        ("a", "adjust", "labeled"),
        ("b", "adjust", "labeled"),
        ("a", "sample_weights", "labeled"),
        ("b", "sample_weights", "labeled"),
        ("a", "terms"),
        ("b", "terms"),
        ("b", "out"),
        ("a", "out"),
        ("a", "closed", 0),
        ("b", "closed", 0),
        ("a", "after", 0),
        ("b", "after", 0),
    ]


def test_a_step_of_several_micro_batches_is_followed_once():
    book: list = []
    train({"a": Diary(book, "a")}, steps=2, accumulate=3)
    assert [entry[1:] for entry in book if entry[1] == "after"] == [("after", 0), ("after", 1)]
    assert sum(entry[1] == "terms" for entry in book) == 6


def test_every_micro_batch_is_closed_once_before_the_next_one_begins():
    book: list = []
    train({"a": Diary(book, "a")}, steps=2, accumulate=3)
    told = [entry[1:] for entry in book if entry[1] in ("terms", "closed", "after")]
    expected = []
    for batch in range(6):
        expected += [("terms",), ("closed", batch)]
        expected += [("after", batch // 3)] if batch % 3 == 2 else []
    assert told == expected


def test_a_replayed_batch_is_closed_after_its_last_pass():
    book: list = []
    train({"a": Diary(book, "a"), "sam": SAM()}, steps=2)
    told = [entry[1:] for entry in book if entry[1] in ("terms", "closed")]
    assert told == [("terms",), ("terms",), ("closed", 0), ("terms",), ("terms",), ("closed", 1)]


class Owner(Method):
    def combine(self, step, recipe):
        return 3 * step.losses["supervised"]


class Bonus(Method):
    """A constant term with a weight, and a scalar to log."""

    def terms(self, step, recipe):
        step.term("bonus", torch.tensor([2.0, 4.0]), weight=0.5)
        step.scalar("speed", 7)


def test_terms_are_summed_with_their_weights_and_logged_without():
    logged, plain = train({"bonus": Bonus()}, steps=1).history[0], train(steps=1).history[0]
    assert logged["train/bonus"] == 3.0 and logged["train/speed"] == 7.0
    assert logged["train/loss"] == pytest.approx(plain["train/loss"] + 1.5)


def test_a_method_may_own_the_combination():
    owned, plain = train({"owner": Owner()}, steps=1), train(steps=1)
    assert owned.losses[0] == pytest.approx(3 * plain.losses[0])
    start = Setup().network().state_dict()
    name = "heads.label.weight"
    torch.testing.assert_close(
        owned.parameters[name] - start[name], 3 * (plain.parameters[name] - start[name])
    )


def test_the_inherited_combination_is_the_weighted_sum():
    class Inherited(Method):
        def combine(self, step, recipe):
            return super().combine(step, recipe)

    methods = {"bonus": Bonus(), "inherited": Inherited()}
    assert train(methods, steps=1).losses == train({"bonus": Bonus()}, steps=1).losses


def test_inference_changes_what_is_reported_and_leaves_the_raw_network():
    recipe = build({"a": Diary([], "a"), "b": Diary([], "b")}, Setup())
    view = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(
        recipe.predict_logits(view)["label"], recipe.predict_logits(view, raw=True)["label"] + 2
    )
    assert recipe.evaluator.variants == (False, True)
    assert build({}, Setup()).evaluator.variants == (False,)


class Head(Method):
    """Owns a module that learns: its tensors lie with the recipe."""

    def build(self, recipe):
        recipe.method_modules[self.key] = nn.Linear(16, 1)

    def terms(self, step, recipe):
        values = self.module(recipe)(step.outputs["labeled"].features).square().squeeze(1)
        step.term(self.key, values)


def test_modules_of_a_method_are_trained_and_saved_with_the_recipe(tmp_path):
    setup = Setup(steps=3)
    result = fit(build({"head": Head()}, setup), setup)
    weight = result.recipe.method_modules["head"].weight.detach()
    assert not torch.equal(weight, build({"head": Head()}, setup).method_modules["head"].weight)
    result.trainer.save_checkpoint(tmp_path / "it.ckpt")
    state = torch.load(tmp_path / "it.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["method_modules.head.weight"], weight)


def test_an_empty_method_fills_nothing_and_changes_nothing():
    class Empty(Method):
        declaration = Declaration()

    assert not any(Empty().implements(point) for point in POINTS)
    assert all(Diary([], "a").implements(point) for point in POINTS if point in vars(Diary))
    plain, empty = train(steps=2), train({"empty": Empty()}, steps=2)
    assert empty.history == plain.history
    assert Empty().parameter_groups(plain.recipe) == []


def test_the_defaults_of_all_points_pass_through():
    method, z = Method(), torch.randn(2, 3)
    assert method.adjust(None, z, None, "label", "labeled", None) is z
    assert method.sample_weights(None, z, torch.zeros(2).long(), "label", "labeled", None) is None
    assert method.infer(z, "label", None) is z
    assert method.wrap_step(lambda: 5, None, None) == 5
