import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foundation.errors import UserError
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.regularization.mixup import Mixup
from methods.semi_supervised import confirmation_bias
from methods.semi_supervised.confirmation_bias import (
    ConfirmationBias,
    SoftLabels,
    balance,
    without_dropout,
)
from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.temporal_ensembling import TemporalEnsembling
from tests.support.harness import Setup
from tests.support.lab import trial
from tests.support.tiny_runs import run_of

KEY = "confirmation_bias"
P = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
UNIFORM = torch.full((3,), math.log(1 / 3))
STEPS = {"trainer.max_steps": 6, "trainer.val_every": 6}


def settings(**values):
    return {f"methods.{KEY}.{name}": value for name, value in values.items()}


# -- the regularizers ------------------------------------------------------------------------------
def test_worked_example():
    found = float(balance(P.log(), UNIFORM))
    assert found == pytest.approx(0.240516, abs=1e-6)
    # the authors' code leaves out the constant
    assert found + math.log(3) == pytest.approx(1.339128, abs=1e-6)
    assert float(entropy(P.log()).mean()) == pytest.approx(0.872583, abs=1e-6)


def test_the_balance_is_zero_where_the_mean_prediction_is_the_prior():
    turned = torch.stack([P[0].roll(shift) for shift in range(3)])
    assert float(balance(turned.log(), UNIFORM)) == pytest.approx(0, abs=1e-6)
    assert float(balance(P.log(), P.mean(0).log())) == pytest.approx(0, abs=1e-6)
    assert float(balance(P.log(), torch.tensor([0.1, 0.1, 0.8]).log())) > 1


def test_a_class_of_probability_zero_has_a_finite_gradient():
    logits = torch.tensor([[0.0, 0.0, -400.0], [0.0, 0.0, -500.0]], requires_grad=True)
    value = balance(F.log_softmax(logits, 1), UNIFORM)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert float(logits.grad[0, 2]) < 0


def test_dropout_rests_and_batch_statistics_do_not():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Dropout(0.5))
    network[3].eval()
    with without_dropout(network):
        assert [module.training for module in network] == [False, True, False, False]
    assert [module.training for module in network] == [True, True, True, False]


# -- the table -------------------------------------------------------------------------------------
def test_given_labels_stay_and_the_last_prediction_of_a_sample_is_kept():
    labels = SoftLabels(4, 2)
    labels.give(torch.tensor([1, 3]), torch.tensor([0, -1]))
    labels.start(torch.arange(4), torch.tensor([[0.6, 0.4]]).expand(4, 2))
    assert labels.read(torch.arange(4)).flatten().tolist() == pytest.approx(
        [0.6, 0.4, 1, 0, 0.6, 0.4, 0.6, 0.4]
    )
    q = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    labels.replace(torch.tensor([0, 1, 0]), q)
    assert labels.read(torch.arange(2)).flatten().tolist() == pytest.approx([0.3, 0.7, 1, 0])


class Watched:
    """Step, inputs, terms and the table before it, of every pass."""

    def __init__(self, monkeypatch):
        self.seen = []
        plain = ConfirmationBias.terms

        def terms(method, step, context):
            plain(method, step, context)
            memory = context.method_modules[KEY]["label"]
            self.seen.append((step, dict(step.inputs), dict(step.terms), memory.table.clone()))

        monkeypatch.setattr(ConfirmationBias, "terms", terms)


def unmixed(monkeypatch):
    def identity(step, key, rows, alpha, per_sample):
        assert not per_sample
        return torch.ones(rows), torch.arange(rows)

    monkeypatch.setattr(confirmation_bias, "draw_mixing", identity)


def test_unmixed_and_unregularized_it_is_the_cross_entropy_of_the_stored_labels(monkeypatch):
    unmixed(monkeypatch)
    watched = Watched(monkeypatch)
    off = settings(warmup=2, balance_weight=0.0, entropy_weight=0.0)
    outcome = trial(run_of("image", KEY, **STEPS, **off))
    assert outcome.terms == {"supervised", KEY}
    for step, _, terms, table in watched.seen[2:]:
        stored = table[step.streams["unlabeled"].index]
        logits = step.logits(f"{KEY}/unlabeled", "label")
        unlabeled = -(stored * F.log_softmax(logits, 1)).sum(1)
        known = step.streams["labeled"].targets["label"]
        labeled = F.cross_entropy(step.logits("labeled", "label"), known, reduction="none")
        loss = float(sum(term.weighted(term.reduced()).detach() for term in terms.values()))
        # the mean over all samples of the batch
        assert loss == pytest.approx(
            float(torch.cat([labeled, unlabeled]).mean().detach()), rel=1e-5
        )


def test_the_table_has_given_labels_first_predictions_and_then_those_of_the_last_visit(
    monkeypatch,
):
    watched = Watched(monkeypatch)
    outcome = trial(run_of("image", KEY, **STEPS, **settings(warmup=2)))
    memory = outcome.recipe.method_modules[KEY]["label"]
    labeled = outcome.trainer.datamodule.parts["labeled"]
    given = torch.zeros(len(memory.table), dtype=torch.bool)
    given[labeled.index] = True
    assert torch.equal(memory.given, given)
    one_hot = F.one_hot(labeled.targets["label"], 10).float()
    # in the warm-up only given labels are known
    assert not watched.seen[1][3][~given].any()
    first = watched.seen[2][3]
    torch.testing.assert_close(first.sum(1), torch.ones(len(first)))
    expected = first.clone()
    for step, *_ in watched.seen[2:]:
        index = step.streams["unlabeled"].index
        q = step.scratch[KEY]["label"]
        assert not q.requires_grad
        for i, row in zip(index.tolist(), q, strict=True):
            if not given[i]:
                expected[i] = row
    assert torch.equal(memory.table, expected)
    assert torch.equal(memory.table[labeled.index], one_hot)
    assert not torch.equal(memory.table, first)


def test_labeled_and_unlabeled_samples_meet_in_one_pool(monkeypatch):
    watched = Watched(monkeypatch)
    trial(run_of("image", KEY, **STEPS, **settings(warmup=0)))
    mixed = 0
    for _, inputs, _, _ in watched.seen:
        labeled, others = inputs["labeled"], inputs[f"{KEY}/unlabeled"]
        assert (labeled.size, others.size) == (8, 16)
        for entry in (labeled, others):
            torch.testing.assert_close(entry.targets["label"].sum(1), torch.ones(entry.size))
        mixed += int((labeled.targets["label"] > 1e-4).sum(1).gt(2).sum())
    assert mixed > 0, "no labeled sample has met an unlabeled one"


def test_regularizers_are_of_the_whole_batch_and_of_all_ranks(monkeypatch):
    watched = Watched(monkeypatch)
    twice = []

    def gather(value):
        twice.append(torch.cat([value, value.roll(1, 1)]))
        return twice[-1]

    monkeypatch.setattr(confirmation_bias, "gather_with_gradient", gather)
    trial(run_of("image", KEY, **STEPS, **settings(warmup=5)))
    step, _, terms, _ = watched.seen[5]
    logits = torch.cat([step.logits("labeled", "label"), step.logits(f"{KEY}/unlabeled", "label")])
    assert len(twice) == 1 and len(twice[0]) == 2 * len(logits) == 48
    uniform = torch.full((10,), -math.log(10))
    assert torch.equal(terms[f"{KEY}/balance"].values, balance(twice[0], uniform))
    assert torch.equal(terms[f"{KEY}/entropy"].values, entropy(logits))
    weights = [terms[f"{KEY}/{name}"].weight for name in ("balance", "entropy")]
    assert weights == [0.8, 0.4]


def test_the_prior_of_the_labels_is_that_of_the_long_tail():
    outcome = trial(run_of("image", KEY, **settings(prior="labels")))
    method = outcome.recipe.composition.methods[KEY]
    counts = outcome.recipe.statistics.counts("label")
    assert counts.max() > counts.min()
    log_prior = method.log_prior("label", outcome.recipe)
    torch.testing.assert_close(log_prior.exp(), counts / counts.sum())


def test_the_warmup_is_supervised_training(monkeypatch):
    watched = Watched(monkeypatch)
    outcome = trial(run_of("image", KEY, **STEPS, **settings(warmup=5)))
    plain = trial(run_of("image", **STEPS))
    assert [set(terms) for *_, terms, _ in watched.seen[:5]] == [{"supervised"}] * 5
    for step in range(1, 6):
        assert outcome.history[step]["train/loss"] == plain.history[step]["train/loss"]
    assert outcome.history[6]["train/loss"] != plain.history[6]["train/loss"]


def test_a_warmup_of_the_whole_run_is_refused():
    with pytest.raises(UserError, match="warmup=6: leaves none of the run's 6 steps"):
        trial(run_of("image", KEY, **STEPS, **settings(warmup=6)))


def test_the_extra_forward_has_no_dropout_and_leaves_running_statistics_alone(monkeypatch):
    """The same network with and without dropout predicts the same."""
    seen = []
    plain = ConfirmationBias.predictions

    def predictions(method, embedded, context):
        before = {k: v.clone() for k, v in context.network.state_dict().items()}
        first = plain(method, embedded, context)
        again = plain(method, embedded, context)
        seen.append(torch.equal(first["label"], again["label"]))
        after = context.network.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        return first

    monkeypatch.setattr(ConfirmationBias, "predictions", predictions)
    trial(run_of("image", KEY, **settings(warmup=0), **{"network.drop_rate": 0.5}))
    assert seen == [True] * 3


def test_a_replayed_batch_writes_what_its_first_pass_predicted(monkeypatch):
    calls = []
    plain = ConfirmationBias.predictions

    def predictions(method, embedded, context):
        calls.append(len(embedded.x))
        return plain(method, embedded, context)

    monkeypatch.setattr(ConfirmationBias, "predictions", predictions)
    outcome = trial(run_of("image", KEY, "sam", **settings(warmup=0)))
    assert calls == [16] * 3
    memory = outcome.recipe.method_modules[KEY]["label"]
    assert int(memory.writes.max()) <= 3


# -- who it meets ----------------------------------------------------------------------------------
@pytest.mark.parametrize("other", [Mixup(), TemporalEnsembling()], ids=["mixup", "table"])
def test_another_mixer_and_another_table_are_refused(other):
    with pytest.raises(UserError, match="both own"):
        Setup().composition({KEY: ConfirmationBias(), "other": other})


def test_a_uniform_balance_corrects_the_prior():
    with pytest.raises(UserError, match="correction of the class prior"):
        Setup().composition({KEY: ConfirmationBias(), "la": LogitAdjustment()})
    for free in (ConfirmationBias(prior="labels"), ConfirmationBias(balance_weight=0.0)):
        assert len(Setup().composition({KEY: free, "la": LogitAdjustment()}).methods) == 2
