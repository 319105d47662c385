"""A run that falls to one class or to chance says so while it trains and at its end."""

import pytest
import torch
import yaml
from torch import Tensor

from recipes.config.groups import CONFIGS, families
from recipes.config.signatures import find_target, signature
from recipes.config.validation import targets
from recipes.contract import Declaration, Method
from recipes.contract.composition import Composition
from recipes.engine.collapse import FALLBACK, CollapseWatch, count, fault, remedy
from recipes.tasks.classification import ClassificationTask
from tests.support.command import train, write_csv

NAMES = ["ant", "bee", "cat", "dog"]
SOUND = torch.eye(4) * 20 + 1
ONE_CLASS = torch.tensor([[0, 0, 25, 0]] * 4)
CHANCE = torch.full((4, 4), 6)


def by_class(confusion: Tensor) -> Tensor:
    """Samples, correct ones and predictions of each class [3, C]."""
    return torch.stack([confusion.sum(1), confusion.diagonal(), confusion.sum(0)])


def judged(confusion: Tensor, done: float = 1.0) -> str:
    counts = count(by_class(confusion))
    return fault(counts, NAMES[: len(confusion)], done) if counts else ""


def test_counts_of_a_confusion_matrix():
    found = count(by_class(torch.tensor([[6, 2], [1, 1]])))
    assert (found.samples, found.classes, found.predicted) == (10, 2, 0)
    assert (found.predicted_share, found.true_share, found.largest_share) == (0.7, 0.8, 0.8)
    assert (found.accuracy, found.balanced_accuracy) == (0.7, pytest.approx(0.625))
    assert count(torch.zeros(3, 4)) is None


def test_one_class_and_chance_are_faults_and_a_sound_result_is_none():
    assert judged(SOUND) == ""
    assert judged(ONE_CLASS) == (
        "100% of the predictions are the class 'cat', which 25% of the samples have"
    )
    assert judged(CHANCE) == (
        "accuracy 25.0% is chance (the largest class alone has 25.0% of the samples)"
    )


def test_a_network_has_time_to_leave_its_start():
    assert judged(ONE_CLASS, 0.1) == "" and judged(ONE_CLASS, 0.2)
    assert judged(CHANCE, 0.4) == "" and judged(CHANCE, 0.5)


def test_most_predictions_of_a_rare_class_are_a_fault_late_in_a_run():
    """A run on the way to one class, before it has arrived there."""
    support, classes = torch.full((14,), 100), [str(c) for c in range(14)]

    def late(predicted: int, done: float) -> str:
        others = torch.full((13,), (1400 - predicted) // 13)
        predictions = torch.cat([torch.tensor([predicted]), others])
        counts = count(torch.stack([support, torch.full((14,), 30), predictions]))
        assert counts is not None
        return fault(counts, classes, done)

    share = "80% of the predictions are the class '0', which 7% of the samples have"
    assert late(1120, 0.5) == share and late(1120, 0.4) == ""
    assert late(700, 1.0) == ""


def test_data_that_are_nearly_of_one_class_and_few_samples_are_not_judged():
    """The same predictions are right where most samples have that class."""
    common = torch.tensor([[90, 0, 0], [3, 2, 0], [3, 0, 2]])
    assert judged(common) == ""
    assert judged(ONE_CLASS[:, :4] // 5) == ""  # 20 samples


def test_a_balanced_network_below_the_largest_class_is_no_fault():
    """A correction of the class prior trades accuracy for balanced accuracy."""
    tail = torch.tensor([[30, 30, 20], [2, 6, 2], [0, 1, 4]])
    counts = count(by_class(tail))
    assert counts.accuracy < counts.largest_share and judged(tail) == ""


def test_two_classes_are_judged_by_chance_alone():
    always = torch.tensor([[60, 0], [40, 0]])
    assert judged(always, 0.3) == ""
    assert judged(always, 0.5).startswith("accuracy 60.0% is chance")


class Heavy(Method):
    declaration = Declaration(lower_on_collapse=("weight", "heat"))

    def __init__(self, weight: float = 75.0, heat: float = 2.0):
        self.weight = weight


def composition(**methods: Method) -> Composition:
    declarations = {key: method.declare() for key, method in methods.items()}
    return Composition(dict(methods), declarations, {}, {}, {}, None, False)


def test_the_remedy_names_methods_and_settings_that_say_so():
    assert remedy(composition(heavy=Heavy())) == (
        "lower methods.heavy.weight (now 75) or methods.heavy.heat"
    )
    assert remedy(composition(other=Method())) == FALLBACK


def test_each_task_warns_once_and_the_end_says_it_again():
    tasks = [ClassificationTask("kind", NAMES), ClassificationTask("size", NAMES)]
    watch = CollapseWatch(tasks, composition(heavy=Heavy()), 1000)
    one_class, chance, sound = (by_class(matrix) for matrix in (ONE_CLASS, CHANCE, SOUND))
    found = {"kind": one_class, "size": sound}
    assert watch.validated(found, 19) == []  # below EARLIEST
    assert watch.validated(found, 100) == []
    lines = watch.validated(found, 200)
    assert len(lines) == 1 and lines[0].startswith("step 200 of 1000, validation of kind: 100%")
    assert lines[0].endswith("lower methods.heavy.weight (now 75) or methods.heavy.heat")
    lines = watch.validated({"kind": one_class, "size": chance}, 600)
    assert len(lines) == 1 and "validation of size: accuracy 25.0% is chance" in lines[0]
    assert watch.validated({"kind": one_class, "size": chance}, 700) == []
    end = watch.ended({"kind": one_class, "size": sound}, 1000)
    assert end == watch.lines and len(end) == 1
    assert end[0].startswith("the run ended with a fault, test of kind: 100%")


def test_a_run_that_collapses_warns_while_it_trains_at_its_end_and_on_its_page(tmp_path):
    """MixMatch with its published weight and ramp, which belong to a million steps."""
    steps = ["trainer.max_steps=40", "trainer.val_every=20"]
    settings = ("weight=75", "ramp_end=0.015625", "align=0")
    published = [f"methods.mixmatch.{setting}" for setting in settings]
    outcome = train(tmp_path / "run", "recipe=mixmatch", *steps, *published)
    warnings = [line for line in outcome.lines if line.startswith("warning: ")]
    assert len(warnings) == 2, outcome.err
    assert warnings[0].startswith("warning: step 20 of 40, validation: ")
    assert warnings[1].startswith("warning: the run ended with a fault, test: ")
    assert all(line.endswith("lower methods.mixmatch.weight (now 75)") for line in warnings)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Warning</h2>" in page and "the run ended with a fault, test: " in page


def test_the_defaults_of_mixmatch_do_not_collapse(tmp_path):
    """The same run with the weight and the ramp that a command gets."""
    outcome = train(
        tmp_path / "run", "recipe=mixmatch", "trainer.max_steps=40", "trainer.val_every=20"
    )
    assert "warning: " not in outcome.err


def test_a_task_of_many_classes_is_judged_without_a_matrix():
    classes = [str(i) for i in range(20_000)]
    watch = CollapseWatch([ClassificationTask("kind", classes)], composition(), 1000)
    evaluation = ClassificationTask("kind", classes).evaluation()
    target = torch.arange(0, 20_000, 100)
    logits = torch.zeros(len(target), 20_000)
    logits[:, 7] = 1
    evaluation.update(logits, target)
    (line,) = watch.validated({"kind": evaluation.class_counts()}, 500)
    assert "100% of the predictions are the class '7', which 0% of the samples have" in line


def test_texts_of_a_network_that_learns_nothing(tmp_path):
    texts = write_csv(tmp_path / "texts.csv", ["red", "blue", "green"] * 100)
    data = ["data=text_file", f"data.source.train_file={texts}", "data.num_workers=0"]
    sizes = ["trainer.max_steps=20", "trainer.val_every=20", "data.batch_size=4"]
    outcome = train(tmp_path / "run", *data, *sizes, "optimizer.lr=1e-9")
    warnings = [line for line in outcome.lines if line.startswith("warning: ")]
    assert warnings and warnings[-1].startswith("warning: the run ended with a fault, test: ")
    assert warnings[-1].endswith(FALLBACK)


def test_a_sound_run_says_nothing(tmp_path):
    outcome = train(tmp_path / "run", "trainer.max_steps=30", "trainer.val_every=30")
    assert "warning" not in outcome.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Warning</h2>" not in page


def test_every_setting_that_a_method_names_is_one_of_its_own():
    named = 0
    for family in families(CONFIGS):
        for file in sorted((CONFIGS / family).glob("*.yaml")):
            tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            for _, node in targets(tree, family):
                target = find_target(node["_target_"])
                declaration = getattr(target, "declaration", None)
                settings = declaration.lower_on_collapse if declaration else ()
                assert set(settings) <= signature(target).arguments.keys(), target
                named += bool(settings)
    assert named >= 8
