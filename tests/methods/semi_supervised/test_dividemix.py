from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import open_dict

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.averaging.ema import EMA
from methods.regularization.mixup import Mixup
from methods.semi_supervised.dividemix import DivideMix, balance_penalty, losses_of, refined
from methods.semi_supervised.division import FIRST, KEPT, REST, SECOND, Divided, Division
from methods.semi_supervised.loss_mixture import (
    boundary,
    clean_probability,
    fit,
    normalised,
    responsibilities,
)
from methods.semi_supervised.meta_pseudo_labels import MetaPseudoLabels
from recipes.contract import Seen
from recipes.step import Input, Progress, Step, Stream
from recipes.step.criterion import Criterion
from tests.support.harness import Setup, noisy_view
from tests.support.lab import trial
from tests.support.tiny_runs import run_of


# -- the mixture -------------------------------------------------------------------------------------
def two_groups(seed, share=0.3, rows=2000):
    source = np.random.default_rng(seed)
    wrong = source.random(rows) < share
    losses = np.where(wrong, source.normal(0.7, 0.12, rows), source.normal(0.1, 0.06, rows))
    return np.clip(losses, 0, 1), wrong


@pytest.mark.parametrize("seed", range(4))
def test_the_mixture_is_that_of_scikit_learn(seed):
    from sklearn.mixture import GaussianMixture

    x, _ = two_groups(seed, share=0.1 + 0.2 * seed)
    theirs = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed)
    theirs.fit(x[:, None])
    ours = fit(x)
    mine, yours = ours.means.argsort(), theirs.means_[:, 0].argsort()
    np.testing.assert_allclose(ours.means[mine], theirs.means_[yours, 0], atol=1e-6)
    np.testing.assert_allclose(ours.weights[mine], theirs.weights_[yours], atol=1e-6)
    np.testing.assert_allclose(ours.variances[mine], theirs.covariances_[yours, 0, 0], atol=1e-6)
    posterior = theirs.predict_proba(x[:, None])[:, yours]
    np.testing.assert_allclose(responsibilities(x, ours)[0][:, mine], posterior, atol=1e-6)


def test_right_labels_are_found():
    x, wrong = two_groups(0)
    clean = clean_probability(torch.from_numpy(x)).numpy()
    assert ((clean > 0.5) == ~wrong).mean() > 0.99


def test_the_best_two_groups():
    assert boundary(np.array([0.0, 5.0, 0.1, 5.2, 4.9])) == 0.1
    # equal values are in one group
    assert boundary(np.array([1.0, 1.0, 1.0, 2.0])) == 1.0
    source = np.random.default_rng(0)
    x = source.random(30)
    best = boundary(x)

    def distances(limit):
        return sum(((part - part.mean()) ** 2).sum() for part in (x[x <= limit], x[x > limit]))

    assert distances(best) == min(distances(limit) for limit in np.sort(x)[:-1])


def test_losses_that_are_all_equal_are_clean():
    assert clean_probability(torch.full((5,), 0.3)).tolist() == [1.0] * 5
    assert normalised(torch.full((3,), 0.3)).tolist() == [0.0] * 3
    assert normalised(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.5]


# -- worked numbers ----------------------------------------------------------------------------------
def test_co_refinement():
    p, y = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    found = refined(torch.tensor([[0.8]]), y, p, 0.5)
    assert found[0].tolist() == pytest.approx([0.993621, 0.004416, 0.001963], abs=1e-6)
    assert refined(torch.tensor([[0.8]]), y, p, 1.0)[0].tolist() == pytest.approx([0.9, 0.06, 0.04])
    assert refined(torch.tensor([[1.0]]), y, p, 0.5)[0].tolist() == pytest.approx([1, 0, 0])
    # without a label: the prediction alone
    none = torch.zeros(1, 3)
    assert refined(torch.tensor([[0.0]]), none, p, 1.0)[0].tolist() == pytest.approx(p[0].tolist())


def test_the_penalty_is_zero_at_equal_classes():
    assert float(balance_penalty(torch.eye(4))) == pytest.approx(0.0, abs=1e-7)
    p = torch.tensor([[0.5, 0.3, 0.2]])
    expected = sum(np.log((1 / 3) / q) / 3 for q in (0.5, 0.3, 0.2))
    assert float(balance_penalty(p)) == pytest.approx(expected, abs=1e-6)
    missing = torch.tensor([[1.0, 0.0]], requires_grad=True)
    balance_penalty(missing).backward()
    assert missing.grad.isfinite().all()


# -- the division ------------------------------------------------------------------------------------
def division(history=1, threshold=0.5):
    """Six of eight samples have a label; the second half of them has a large loss."""
    made = Division(6, 8, history, threshold)
    index = torch.tensor([7, 0, 2, 3, 5, 6])
    for network in (FIRST, SECOND):
        made.put(network, index, torch.tensor([0.1, 0.11, 0.09, 2.0, 2.1, 1.9]))
    return made, index


def test_small_losses_keep_their_labels():
    made, index = division()
    assert made.positions(FIRST, kept=True).tolist() == [0, 1, 2]
    assert made.positions(FIRST, kept=False).tolist() == [3, 4, 5]
    assert (made.of(FIRST, index) > 0.5).tolist() == [True] * 3 + [False] * 3
    assert made.share(FIRST) == 0.5 and made.has_rest(FIRST)


def test_a_sample_without_a_label_is_never_kept():
    made = Division(3, 3, 1, 0.5)
    made.put(FIRST, torch.arange(3), torch.tensor([0.2, -1.0, 0.2]))
    assert made.positions(FIRST, kept=True).tolist() == [0, 2]
    assert float(made.of(FIRST, torch.tensor([1]))) == 0.0


def test_losses_of_the_last_divisions_are_averaged():
    made = Division(4, 4, 2, 0.5)
    index = torch.arange(4)
    for losses in ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]):
        for network in (FIRST, SECOND):
            made.put(network, index, torch.tensor(losses))
    history = made.losses_student
    assert history.tolist() == [[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    once = Division(4, 4, 2, 0.5)
    once.put(FIRST, index, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert once.positions(FIRST, kept=True).tolist() == [0, 1]


@pytest.mark.parametrize("history", [1, 2])
def test_a_division_is_by_the_mean_of_the_last_losses(history):
    """Sample 2 had been learned and is no longer, sample 5 the other way round."""
    made = Division(6, 6, history, 0.5)
    for losses in ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.6, 1.0, 1.0, 0.4]):
        for network in (FIRST, SECOND):
            made.put(network, torch.arange(6), torch.tensor(losses))
    kept = made.positions(FIRST, kept=True).tolist()
    assert (2 in kept) == (history == 2) and set(kept) >= {0, 1} and not {3, 4} & set(kept)


def test_a_restored_division_gives_the_same_streams():
    made, _ = division()
    again = Division(6, 8, 1, 0.5)
    # asked before, as a loader does that was made before the checkpoint is read
    assert again.version == 0 and len(again.positions(SECOND, kept=True)) == 6
    again.load_state_dict(made.state_dict())
    assert again.version == made.version == 2
    assert again.positions(SECOND, kept=True).tolist() == [0, 1, 2]


# -- the streams -------------------------------------------------------------------------------------
def test_streams_follow_the_division_of_the_other_network():
    made = Division(6, 6, 1, 0.5)
    order = {s: Divided(lambda: made, 6, 0, s) for s in (*KEPT.values(), *REST.values())}
    for stream in order.values():
        assert sorted(stream.take(0, 6).tolist()) == list(range(6))
    index = torch.arange(6)
    made.put(FIRST, index, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    made.put(SECOND, index, torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert sorted(order[KEPT[FIRST]].take(10, 15).tolist()) == [1, 2, 3, 4, 5]
    assert order[REST[FIRST]].take(3, 5).tolist() == [0, 0]
    assert set(order[KEPT[SECOND]].take(0, 12).tolist()) == {0, 1, 2}
    assert set(order[REST[SECOND]].take(0, 12).tolist()) == {3, 4, 5}
    # a new division, in which nothing is left unlabeled
    made.put(FIRST, index, torch.zeros(6))
    made.put(SECOND, index, torch.zeros(6))
    assert sorted(order[REST[FIRST]].take(0, 6).tolist()) == list(range(6))
    assert not made.has_rest(SECOND)


def test_the_survey_takes_the_loss_of_the_given_label():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    seen = Seen({"label": logits}, None, {"label": torch.tensor([0, 1, -1])}, torch.arange(3))
    loss = losses_of(seen)["loss"]
    assert loss.tolist() == pytest.approx([0.126928, 2.126928, -1.0], abs=1e-6)
    more = {"label": torch.tensor([0, 1, -1]), "other": torch.tensor([-1, 0, 0])}
    seen = Seen({"label": logits, "other": logits}, None, more, torch.arange(3))
    assert losses_of(seen)["loss"].tolist() == pytest.approx(
        [0.126928, 2.253856, 0.126928], abs=1e-6
    )


# -- composition -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Mixup(), "both own the mixing of labeled inputs"),
        (MetaPseudoLabels(), "both own the pseudo-labels"),
        (EMA(), "reports what several networks answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_it_does_not_go_with(other, reason):
    with pytest.raises(UserError, match=reason):
        Setup().composition({"dividemix": DivideMix(), "other": other})


@pytest.mark.parametrize("answer", ["logits", "probabilities"])
def test_both_networks_answer(answer):
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    found = DivideMix(answer=answer).vote([a, b], "label", None)
    if answer == "logits":
        assert torch.equal(found, a + b)
    else:
        expected = (torch.softmax(a, 1) + torch.softmax(b, 1)) / 2
        torch.testing.assert_close(torch.softmax(found, 1), expected)


# -- a step ------------------------------------------------------------------------------------------
def a_step(kind, monkeypatch, rest=True, share=1.0):
    """The inputs that a step adds, and what they are made of. share: λ of the mixing with the rows
    in reverse order; 1: without mixing."""

    def reverse(step, key, rows, alpha, per_sample):
        assert not per_sample
        return torch.full((rows,), share), torch.arange(rows).flip(0)

    monkeypatch.setattr("methods.semi_supervised.dividemix.draw_mixing", reverse)
    setup = Setup(kind=kind)
    nets = {FIRST: setup.network(), SECOND: Setup(kind=kind, seed=1).network()}
    streams = {}
    for place, name in enumerate((*KEPT.values(), *REST.values())):
        data, targets = setup.samples(name, 4)
        streams[name] = Stream(name, data, targets, torch.arange(4) + 4 * place)
    method = DivideMix(weight=2.0, ramp=0.0, warmup=0.0)
    method.key = "dividemix"
    made = Division(16, 16, 1, 0.5)
    for network, seed in ((FIRST, 0), (SECOND, 1)):
        w = torch.rand(16, generator=torch.Generator().manual_seed(seed))
        made.get_buffer(f"clean_{network}").copy_(w if rest else 0.6 + 0.4 * w)
    made.index.copy_(torch.arange(16))
    step = Step(
        streams=streams,
        randomness=Randomness(0, 0),
        make_view=noisy_view,
        embed=lambda view, network: nets[network].embed(view),
        criterion=Criterion(),
        progress=Progress(5, 10),
    )
    step.add(Input("labeled", step.embedding("labeled", "weak"), dict(streams["labeled"].targets)))
    context = SimpleNamespace(
        tasks={"label": None},
        device=torch.device("cpu"),
        method_modules={"dividemix": made},
        extra_forward=lambda embedded, network: nets[network](embedded),
    )
    method.prepare(step, context)
    return method, step, context, nets, made


def says(net, step, stream, view):
    with torch.no_grad():
        return torch.softmax(net(net.embed(step.view(stream, view))).logits["label"], 1)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_targets_are_of_the_other_networks_division_and_of_both_networks_guesses(kind, monkeypatch):
    _, step, _, nets, made = a_step(kind, monkeypatch)
    for own, other, labeled in ((FIRST, SECOND, "labeled"), (SECOND, FIRST, SECOND)):
        kept, rest = KEPT[own], REST[own]
        stream = step.streams[kept]
        w = made.get_buffer(f"clean_{other}")[stream.index].unsqueeze(1)
        p = (says(nets[own], step, kept, "weak") + says(nets[own], step, kept, "weak2")) / 2
        q = w * torch.eye(3)[stream.targets["label"]] + (1 - w) * p
        q = q**2 / (q**2).sum(1, keepdim=True)
        found = step.inputs[labeled].targets["label"]
        torch.testing.assert_close(found, torch.cat([q, q]))
        guesses = [says(nets[n], step, rest, v) for n in (own, other) for v in ("weak", "weak2")]
        guess = sum(guesses) / 4
        guess = guess**2 / (guess**2).sum(1, keepdim=True)
        entry = step.inputs[f"{own}/rest"]
        torch.testing.assert_close(entry.targets["label"], torch.cat([guess, guess]))
        x = torch.cat([nets[own].embed(step.view(rest, v)).x for v in ("weak", "weak2")])
        torch.testing.assert_close(entry.embedded.x, x)
        assert {step.inputs[labeled].network, entry.network} == {own}


def pool(step, network, labeled):
    """What a network learns in one step, samples and targets: kept ones, then the rest."""
    entries = [step.inputs[labeled], step.inputs[f"{network}/rest"]]
    x = torch.cat([entry.embedded.x for entry in entries])
    return x, torch.cat([entry.targets["label"] for entry in entries])


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_of_two_mixed_samples_the_first_stays_dominant(share, monkeypatch):
    plain, mixed = (a_step("image", monkeypatch, share=part)[1] for part in (1.0, share))
    for network, labeled in ((FIRST, "labeled"), (SECOND, SECOND)):
        pairs = zip(pool(plain, network, labeled), pool(mixed, network, labeled), strict=True)
        for value, found in pairs:
            torch.testing.assert_close(found, 0.7 * value + 0.3 * value.flip(0))


def test_terms_of_a_step(monkeypatch):
    method, step, context, nets, _ = a_step("image", monkeypatch)
    for name, entry in step.inputs.items():
        step.outputs[name] = nets[entry.network](entry.embedded)
    method.terms(step, context)
    p = torch.softmax(step.logits("second/rest", "label"), 1)
    target = step.inputs["second/rest"].targets["label"]
    term = step.terms["dividemix/rest_second"]
    torch.testing.assert_close(term.values, (p - target).square().mean(1))
    assert term.weight == 2.0
    logits = torch.cat([step.logits("labeled", "label"), step.logits("student/rest", "label")])
    mean = torch.softmax(logits, 1).mean(0)
    expected = ((1 / 3) * torch.log((1 / 3) / mean)).sum()
    torch.testing.assert_close(step.terms["dividemix/balance_student"].values, expected)
    log_p = torch.log_softmax(step.logits(SECOND, "label"), 1)
    supervised = -(step.inputs[SECOND].targets["label"] * log_p).sum(1)
    torch.testing.assert_close(step.terms["dividemix/second"].values, supervised)


def test_without_a_rest_only_kept_samples_are_mixed(monkeypatch):
    """All labels are right: MixMatch on the labeled samples alone."""
    method, step, context, nets, _ = a_step("image", monkeypatch, rest=False)
    assert set(step.inputs) == {"labeled", SECOND}
    assert step.inputs["labeled"].size == step.inputs[SECOND].size == 8
    for name, entry in step.inputs.items():
        step.outputs[name] = nets[entry.network](entry.embedded)
    method.terms(step, context)
    assert set(step.terms) == {
        *("dividemix/second", "dividemix/balance_student", "dividemix/balance_second")
    }


def test_in_the_warm_up_both_networks_learn_all_labels():
    """Each its own samples, by cross-entropy; with a penalty for confidence where it is asked."""
    config = run_of("image", "dividemix", **{"methods.dividemix.warmup": 1.0})
    with open_dict(config):
        config.methods.dividemix.warmup_penalty = 0.5
    outcome = trial(config)
    assert {"dividemix/second", "dividemix/confidence_student", "dividemix/confidence_second"} <= (
        outcome.terms
    )
    assert not [term for term in outcome.terms if "rest" in term]
    assert outcome.history[3]["train/dividemix/confidence_second"] < 0
