from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback

from foundation.errors import UserError
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.inverse_class_frequency import InverseClassFrequency
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.semi_supervised import label_propagation
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.label_propagation import LabelPropagation, PropagatedLabels
from methods.semi_supervised.propagation import Propagated, neighbor_graph, propagate
from recipes.step import Stream
from recipes.step.criterion import Criterion
from tests.support.harness import Setup, step_with
from tests.support.lab import trial, unequal
from tests.support.tiny_runs import run_of

KEY = "label_propagation"
STEPS = {"trainer.max_steps": 6, "trainer.val_every": 6}


def settings(**values):
    return {f"methods.{KEY}.{name}": value for name, value in values.items()}


class Watched:
    """What each survey found, and after how many steps."""

    def __init__(self, monkeypatch):
        self.seen = []
        plain = LabelPropagation.surveyed

        def surveyed(method, survey, table, context):
            plain(method, survey, table, context)
            kept = {name: rows.clone() for name, rows in table.items()}
            self.seen.append((survey.name, context.steps_done, kept))

        monkeypatch.setattr(LabelPropagation, "surveyed", surveyed)

    def times(self, name):
        return [steps for survey, steps, _ in self.seen if survey == name]


def known(samples=6, classes=2):
    """ŷ = 0 1 0 1 0 none, ω = 1, .8, .6, .4, .2, 0."""
    labels = PropagatedLabels(samples, classes)
    found = torch.tensor([0, 1, 0, 1, 0, -1])
    labels.renew(torch.arange(samples), Propagated(found, torch.linspace(1, 0, samples)))
    return labels


def loss_of(method, **logits):
    """The loss of four labeled and two unlabeled samples, each with logits (0, 0)."""
    method.key = KEY
    context = SimpleNamespace(method_modules={KEY: {"label": known()}})
    target = torch.tensor([0, 0, 1, 0])
    flat = {"labeled": torch.zeros(4, 2), f"unlabeled/{method.view}": torch.zeros(2, 2)}
    step = step_with(flat, target, progress=(3, 4))
    step.streams["labeled"] = Stream("labeled", None, {}, torch.arange(4))
    step.streams["unlabeled"] = Stream("unlabeled", None, {}, torch.tensor([1, 4]))
    step._criterion = Criterion(sample_weights=[lambda *a: method.sample_weights(*a, context)])
    step.term("supervised", step.classify("labeled", "label", "labeled"))
    method.terms(step, context)
    return sum(float(term.weighted(term.reduced())) for term in step.terms.values())


def test_the_loss_is_a_mean_over_the_whole_batch():
    """ζ = 5/6, 5/4 of three samples of class 0 and two of class 1; each cross-entropy is log 2."""
    labeled = 3 * 5 / 6 + 5 / 4
    unlabeled = 0.8 * 5 / 4 + 0.2 * 5 / 6
    log2 = float(torch.log(torch.tensor(2.0)))
    assert loss_of(LabelPropagation()) == pytest.approx(log2 * (labeled + unlabeled) / 6)
    assert loss_of(LabelPropagation(weight=3.0, view="strong")) == pytest.approx(
        log2 * (labeled + 3 * unlabeled) / 6
    )
    assert loss_of(LabelPropagation(class_weights=False)) == pytest.approx(log2 * (4 + 1) / 6)
    assert loss_of(LabelPropagation(warmup=0.9)) == pytest.approx(log2)


def test_features_are_surveyed_after_the_warmup_and_once_a_pass(monkeypatch):
    watched = Watched(monkeypatch)
    config = run_of("image", KEY, **STEPS, **settings(warmup=2, every=0.0625))
    outcome = trial(config)
    samples = outcome.recipe.sizes["unlabeled"]
    period = 0.0625 * samples / 16  # batches of 16
    times = [2]
    while times[-1] + period < 6 and len(times) < 9:
        times.append(2 + -int(-len(times) * period // 1))
    assert watched.times("labels") == [0]
    # a survey after step n is made before n counts as done
    assert watched.times("features") == [t - 1 for t in times if t < 6]
    assert len(times) > 1


def test_the_table_is_that_of_the_last_survey_and_only_given_labels_are_its_seeds(monkeypatch):
    watched = Watched(monkeypatch)
    outcome = trial(run_of("image", KEY, **STEPS, **settings(warmup=2)))
    labels = outcome.recipe.method_modules[KEY]["label"]
    data = outcome.trainer.datamodule
    labeled = data.parts["labeled"]
    given = torch.full((len(data.parts["unlabeled"]),), -1)
    given[labeled.index] = labeled.targets["label"]
    # true labels are delivered with the unlabeled part, but they are not known
    assert 0 < int((given >= 0).sum()) == len(labeled) < len(given)
    assert torch.equal(labels.given, given)
    table = [table for name, _, table in watched.seen if name == "features"][-1]
    expected = propagate(neighbor_graph(table["features"], 50, 3.0), given, 10)
    assert torch.equal(labels.labels, expected.labels)
    assert torch.equal(labels.certainty, expected.certainty)
    assert torch.equal(labels.labels[given >= 0], given[given >= 0])
    assert (labels.certainty[given >= 0] == 1).all()
    assert float(labels.certainty[given < 0].max()) < 1


def test_features_are_those_before_the_heads(monkeypatch):
    watched = Watched(monkeypatch)
    outcome = trial(run_of("image", KEY, **STEPS, **settings(warmup=0)))
    _, _, table = next(entry for entry in watched.seen if entry[0] == "features")
    assert table["features"].shape[1] == outcome.recipe.network.feature_dim


class AfterSteps(Callback):
    """The network after some steps."""

    def __init__(self, steps):
        self.steps = steps
        self.state = {}

    def on_train_batch_end(self, trainer, recipe, *args):
        if trainer.global_step == self.steps:
            self.state = {k: v.clone() for k, v in recipe.network.state_dict().items()}


@pytest.mark.parametrize("warmup", [5, 0.8])
def test_the_warmup_is_supervised_training(warmup):
    ours, plain = AfterSteps(5), AfterSteps(5)
    outcome = trial(run_of("image", KEY, **STEPS, **settings(warmup=warmup)), [ours])
    trial(run_of("image", **STEPS), [plain])
    assert ours.state and unequal(ours.state, plain.state) == []
    assert outcome.terms == {"supervised", KEY}


@pytest.mark.parametrize("warmup", [6, 50, 0.95])
def test_a_warmup_of_the_whole_run_is_refused(warmup):
    with pytest.raises(UserError, match=f"warmup={warmup}: leaves none of the run's 6 steps"):
        trial(run_of("image", KEY, **STEPS, **settings(warmup=warmup)))


def test_every_task_has_labels_of_its_own():
    changes = {"data.source.tasks": ["label", "parity"]}
    outcome = trial(run_of("image", KEY, **STEPS, **changes, **settings(warmup=0)))
    tables = outcome.recipe.method_modules[KEY]
    found = {task: tables[task].labels for task in ("label", "parity")}
    given = tables["label"].given >= 0
    assert torch.equal(found["label"][given] % 2, found["parity"][given])
    assert int(found["parity"].max()) == 1 and int(found["label"].max()) > 1


def test_the_first_rank_solves_for_all(monkeypatch):
    """Another rank has what the first one broadcasts, and no graph."""

    def no_graph(*args):
        raise AssertionError("solved twice")

    monkeypatch.setattr(label_propagation, "is_first_rank", lambda: False)
    monkeypatch.setattr(label_propagation, "neighbor_graph", no_graph)
    sent = iter([torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.5, 0.25])])
    monkeypatch.setattr(label_propagation, "from_first_rank", lambda value: next(sent))
    method = LabelPropagation()
    method.key = KEY
    labels = PropagatedLabels(3, 2)
    context = SimpleNamespace(method_modules={KEY: {"label": labels}}, device=torch.device("cpu"))
    table = {"index": torch.arange(3), "features": torch.zeros(3, 2)}
    method.surveyed(method.declare().surveys[1], table, context)
    assert labels.labels.tolist() == [1, 0, 1]
    assert labels.certainty.tolist() == [1, 0.5, 0.25]
    assert labels.class_weights.tolist() == pytest.approx([3 / 2, 3 / 4])


def test_rows_of_a_survey_may_come_in_another_order():
    method = LabelPropagation(neighbors=1)
    method.key = KEY
    features = F.one_hot(torch.tensor([0, 1, 0, 1]), 2).float()
    tables = []
    for order in (torch.arange(4), torch.tensor([1, 2, 3, 0])):
        labels = PropagatedLabels(4, 2)
        labels.given[:2] = torch.tensor([1, 0])
        context = SimpleNamespace(
            method_modules={KEY: {"label": labels}}, device=torch.device("cpu")
        )
        table = {"index": order, "features": features[order]}
        method.surveyed(method.declare().surveys[1], table, context)
        tables.append(labels.labels.tolist())
    assert tables == [[1, 0, 1, 0]] * 2


@pytest.mark.parametrize("other", [LogitAdjustment(), BalancedSoftmax(), InverseClassFrequency()])
def test_the_prior_is_corrected_once(other):
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        Setup().composition({KEY: LabelPropagation(), "other": other})
    free = LabelPropagation(class_weights=False)
    assert set(Setup().composition({KEY: free, "other": other}).methods) == {KEY, "other"}


def test_another_maker_of_pseudo_labels_is_refused():
    with pytest.raises(UserError, match="pseudo-labels"):
        Setup().composition({KEY: LabelPropagation(), "fixmatch": FixMatch()})


def test_a_weight_of_zero_leaves_the_weights_of_classes():
    assert LabelPropagation(weight=0.0).idle_settings() == []
    assert LabelPropagation(weight=0.0, class_weights=False).idle_settings() == ["weight"]
