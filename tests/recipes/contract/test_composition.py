import pytest

from foundation.errors import UserError
from methods.averaging.ema import EMA
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.long_tail.posthoc_logit_adjustment import PosthocLogitAdjustment
from methods.regularization.cutmix import CutMix
from methods.regularization.label_smoothing import LabelSmoothing
from methods.regularization.mixup import Mixup
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.mean_teacher import MeanTeacher
from methods.semi_supervised.mixmatch import MixMatch
from methods.semi_supervised.pseudo_label import PseudoLabel
from methods.semi_supervised.uda import UDA
from recipes.contract import Declaration, Method, TeacherRequest
from recipes.contract.composition import Composition, Environment, base_view, compose
from recipes.contract.vocabulary import SLOTS, TAGS


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """Words of the declarations below."""
    for tag in ("one", "two", "x", "sharp"):
        monkeypatch.setitem(TAGS, tag, "a tag of these tests")
    monkeypatch.setitem(SLOTS, "rank_one", "the rank")


class Plain(Method):
    """A method that only declares."""

    def __init__(self, **fields):
        self.fields = fields

    def declare(self) -> Declaration:
        return Declaration(**self.fields)


def composed(methods, **environment) -> Composition:
    fields = {"kind": "image", "views": frozenset({"raw", "weak", "strong"}), "data": "digits"}
    return compose(methods, Environment(**fields | environment))


def refusal(methods, **environment) -> str:
    with pytest.raises(UserError) as caught:
        composed(methods, **environment)
    return str(caught.value)


# -- what is merged --------------------------------------------------------------------------------
def test_without_methods_only_the_labeled_stream_is_asked_for():
    composition = composed({})
    assert composition.views == {"labeled": ("weak",)}
    assert composition.streams == {"labeled"}
    assert composition.teacher is None and not composition.evaluates_teacher


def test_requests_are_merged():
    methods = {
        "fixmatch": FixMatch(),
        "mean_teacher": MeanTeacher(consistency_on="unlabeled", teacher_mode="eval"),
        "ema": EMA(warmup=True),
    }
    composition = composed(methods)
    assert composition.views == {"labeled": ("weak",), "unlabeled": ("weak", "strong", "weak2")}
    assert composition.teacher == TeacherRequest(0.999, True, "copy", 0.05, "estimated")
    assert composition.evaluates_teacher
    assert composition.slots == {"pseudo_labels": "fixmatch"}


def test_methods_get_their_key_and_only_those_that_fill_a_point_are_called():
    fixmatch, ema = FixMatch(), EMA()
    composition = composed({"a": fixmatch, "b": ema})
    assert (fixmatch.key, ema.key) == ("a", "b")
    assert (fixmatch.state_key, ema.state_key) == ("method:a", "method:b")
    assert composition.implementing("terms") == [fixmatch]
    assert composition.implementing("combine") == []


def test_base_view():
    assert [base_view(name) for name in ("weak", "weak2", "strong10")] == ["weak", "weak", "strong"]


# -- order -----------------------------------------------------------------------------------------
def test_without_tags_the_order_is_that_of_the_config():
    assert list(composed({"c": Plain(), "a": Plain(), "b": Plain()}).methods) == ["c", "a", "b"]


def test_order_follows_tags_in_both_directions_and_over_chains():
    methods = {
        "last": Plain(after=("two",)),
        "third": Plain(tags=("two",), after=("one",)),
        "idle": Plain(),
        "second": Plain(tags=("one",)),
        "first": Plain(before=("one",)),
    }
    order = list(composed(methods).methods)
    assert order == ["idle", "first", "second", "third", "last"]
    assert list(composed(methods).declarations) == order
    mixed = composed({"label_smoothing": LabelSmoothing(), "cutmix": CutMix()})
    assert list(mixed.methods) == ["cutmix", "label_smoothing"]


def test_a_tag_of_its_own_does_not_order_a_method_before_itself():
    assert list(composed({"a": Plain(tags=("x",), after=("x",))}).methods) == ["a"]


def test_a_circle_is_refused_by_the_names_in_it():
    methods = {
        "free": Plain(),
        "a": Plain(tags=("one",), after=("two",)),
        "b": Plain(tags=("two",), after=("one",)),
    }
    assert refusal(methods) == "methods a, b each want to run before the other: leave one out"


# -- refusals --------------------------------------------------------------------------------------
FAMILIES = {
    "mixup": "regularization",
    "cutmix": "regularization",
    "mixmatch": "semi_supervised",
    "fixmatch": "semi_supervised",
}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"mixup": Mixup(), "mixmatch": MixMatch()},
            "regularization=mixup and semi_supervised=mixmatch both own the mixing of labeled "
            "inputs, "
            "which only one method can: leave one out",
        ),
        (
            {"fixmatch": FixMatch(), "uda": UDA()},
            "semi_supervised=fixmatch and methods.uda both own the pseudo-labels of the unlabeled "
            "stream, "
            "which only one method can: leave one out",
        ),
        (
            {"a": LogitAdjustment(), "b": PosthocLogitAdjustment()},
            "methods.a and methods.b both own the correction of the class prior, "
            "which only one method can: leave one out",
        ),
        (
            {"a": Plain(slots=("rank_one",)), "b": Plain(slots=("rank_one",))},
            "methods.a and methods.b both own the rank, which only one method can: leave one out",
        ),
    ],
)
def test_two_owners_of_one_slot(methods, message):
    assert refusal(methods, families=FAMILIES) == message


@pytest.mark.parametrize("turned", [False, True])
def test_a_tag_that_is_refused_whoever_comes_first(turned):
    methods = {
        "a": Plain(refuses={"sharp": "it cuts"}, tags=("sharp",)),
        "b": Plain(tags=("sharp",)),
    }
    if turned:
        methods = dict(reversed(methods.items()))
    assert refusal(methods) == "methods.a cannot be combined with methods.b: it cuts"


def test_another_kind_of_data():
    assert refusal({"cutmix": CutMix()}, kind="text", data="trec", families=FAMILIES) == (
        "regularization=cutmix works on image data, but data=trec is text: leave one out"
    )


def test_a_view_that_the_data_cannot_make():
    assert refusal({"fixmatch": FixMatch()}, views=frozenset({"raw", "weak"})) == (
        "methods.fixmatch needs the view 'strong' of the unlabeled stream, data=digits makes raw, "
        "weak: "
        "give it a data.views.strong"
    )


def test_accumulation_and_precision():
    method = {"a": Plain(accumulation=False, precisions=("32-true", "bf16-mixed"))}
    assert refusal(method, accumulate=4) == (
        "methods.a is not exact with trainer.accumulate_grad_batches=4: set it to 1 and raise "
        "data.batch_size"
    )
    assert refusal(method, precision="16-mixed") == (
        "methods.a does not work in trainer.precision=16-mixed: use one of 32-true, bf16-mixed"
    )
    assert list(composed(method, precision="bf16-mixed").methods) == ["a"]


def test_a_network_that_is_no_single_graph_is_not_compiled():
    method = {"a": Plain(uncompiled="it hangs itself in anew")}
    assert refusal(method, compile=True) == (
        "methods.a cannot be compiled: it hangs itself in anew; set trainer.compile=false"
    )
    assert list(composed(method).methods) == ["a"]


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_an_average_in_half_precision(precision):
    message = refusal({"ema": EMA()}, precision=precision)
    assert message == (
        f"methods.ema does not work in trainer.precision={precision}: an average of weights "
        f"does not change in half precision; use {precision.replace('true', 'mixed')}"
    )


def test_teachers_that_differ():
    methods = {
        "slow": MeanTeacher(ema_decay=0.99, teacher_mode="eval"),
        "mean_teacher": MeanTeacher(),
    }
    assert refusal(methods) == (
        "methods.slow and methods.mean_teacher share one EMA network but want different ones "
        "(decay 0.99 against "
        "0.999, buffers copy against own): make the settings equal or leave one out"
    )


def test_an_average_for_evaluation_alone_yields_to_another_methods():
    composition = composed({"ema": EMA(decay=0.9), "mean_teacher": MeanTeacher()})
    assert composition.teacher == TeacherRequest(0.999, True, "own", 0.05, "estimated")
    assert composed({"ema": EMA(decay=0.9)}).teacher == TeacherRequest(
        0.9, False, "copy", 0.05, "estimated"
    )


def test_all_faults_are_told_at_once_in_one_line_each():
    methods = {
        "fixmatch": FixMatch(),
        "pseudo_label": PseudoLabel(),
        "mixup": Mixup(),
        "cutmix": CutMix(),
    }
    lines = refusal(methods, kind="text", views=frozenset({"raw"})).splitlines()
    assert len(lines) == 5
    assert sum("needs the view" in line for line in lines) == 3
    assert sum("both own" in line for line in lines) == 1
    assert sum("works on image data" in line for line in lines) == 1


# -- what needs company ----------------------------------------------------------------------------
def test_a_method_may_require_another():
    families = {"one": "peft", "two": "peft"}
    needy = Plain(requires={"x": "it changes x, and there is none; add one, e.g. peft=x"})
    assert refusal({"one": needy}, families=families) == (
        "peft=one works only beside another method: it changes x, and there is none; add one, "
        "e.g. peft=x"
    )
    # its own tag does not count
    own = Plain(requires={"x": "it needs another x"}, tags=("x",))
    assert "needs another x" in refusal({"one": own}, families=families)
    assert composed({"one": own, "two": Plain(tags=("x",))}).methods.keys() == {"one", "two"}
