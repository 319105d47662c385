from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datamodules.views.image.ctaugment_rates import Rates
from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.semi_supervised.alignment import RecentPredictions
from methods.semi_supervised.learned_views import learn_from_probes, proximity
from methods.semi_supervised.remixmatch import ReMixMatch, turned
from recipes.contract.environment import Environment
from recipes.step import Embedded, Stream
from tests.support.harness import Setup, build, noisy_view, train


def without_mixing(monkeypatch):
    def identity(step, key, rows, alpha, per_sample):
        return torch.ones(rows), torch.arange(rows)

    monkeypatch.setattr("methods.semi_supervised.remixmatch.draw_mixing", identity)


PAPER = {"weight": 1.5, "anchor_weight": 0.5}


@pytest.mark.parametrize("target", ["weak_anchor", "strong_mean"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_terms_of_the_first_step_in_plain_code(kind, target, monkeypatch):
    """Without mixing: every view's cross-entropy against the aligned and sharpened anchor."""
    without_mixing(monkeypatch)
    setup = Setup(kind=kind, steps=1)
    method = ReMixMatch(**PAPER, ramp_end=0.0, strong_views=2, target=target)
    history = train({"remixmatch": method}, kind=kind, steps=1).history[0]
    network, batch = setup.network(), setup.batches({"labeled", "unlabeled"})[0]
    streams = {name: Stream(name, **batch[name]) for name in ("labeled", "unlabeled")}

    def logits(view, stream="unlabeled"):
        embedded = network.embed(noisy_view(streams[stream], view, Randomness(0, 0)))
        return network(embedded).logits["label"]

    with torch.no_grad():
        weak, first, second = (logits(view) for view in ("weak", "strong", "strong2"))
        p = weak.softmax(1)
        if target == "strong_mean":
            p = (first.softmax(1) + second.softmax(1)) / 2
        counts = setup.statistics().counts("label")
        q = p * (counts / counts.sum() + 1e-6) / (torch.full((3,), 1 / 3) + 1e-6)
        q = q / q.sum(1, keepdim=True)
        sharp = q**2 / (q**2).sum(1, keepdim=True)

        def cost(z):
            return float(F.cross_entropy(z, sharp))

        supervised = F.cross_entropy(
            logits("strong", "labeled"), batch["labeled"]["targets"]["label"]
        )
    assert history["train/remixmatch"] == pytest.approx(
        (cost(weak) + cost(first) + cost(second)) / 3, abs=1e-6
    )
    assert history["train/remixmatch/anchor"] == pytest.approx(cost(first), abs=1e-6)
    assert history["train/supervised"] == pytest.approx(float(supervised), abs=1e-6)
    assert history["train/confidence"] == pytest.approx(float(q.amax(1).mean()), abs=1e-6)
    assert ("train/remixmatch/rotation" in history) == (kind == "image")
    total = history["train/supervised"] + 1.5 * history["train/remixmatch"]
    total += 0.5 * history["train/remixmatch/anchor"]
    total += 0.5 * history.get("train/remixmatch/rotation", 0.0)
    assert history["train/loss"] == pytest.approx(total, abs=1e-5)


def test_the_ramp_is_of_both_pseudo_label_terms_and_not_of_the_rotation():
    method = ReMixMatch(**PAPER, ramp_end=1.0, strong_views=2)
    history = train({"remixmatch": method}, steps=4).history
    for step in range(4):
        row = history[step]
        ramped = 1.5 * row["train/remixmatch"] + 0.5 * row["train/remixmatch/anchor"]
        total = row["train/supervised"] + 0.5 * row["train/remixmatch/rotation"]
        assert row["train/loss"] == pytest.approx(total + step / 4 * ramped, abs=1e-5)


def test_the_rotation_term_is_of_turned_strong_views_and_trains_its_head():
    result = train(
        {"remixmatch": ReMixMatch(weight=0.0, anchor_weight=0.0, strong_views=1)}, steps=1
    )
    setup = Setup(steps=1)
    stream = Stream("unlabeled", **setup.batches({"labeled", "unlabeled"})[0]["unlabeled"])
    x = noisy_view(stream, "strong", Randomness(0, 0))
    expected = torch.stack([x[i].rot90(i % 4, (1, 2)) for i in range(len(x))])
    found, angles = turned(x, 0)
    assert torch.equal(found, expected) and angles.tolist() == [i % 4 for i in range(len(x))]
    before = train({"remixmatch": ReMixMatch(strong_views=1)}, steps=1, lr=0.0).recipe
    head = before.method_modules["remixmatch"]["rotation"]
    network = setup.network()
    with torch.no_grad():
        logits = head(network(network.embed(found)).features)
        loss = F.cross_entropy(logits, angles)
    assert result.history[0]["train/remixmatch/rotation"] == pytest.approx(float(loss), abs=1e-6)
    after = result.recipe.method_modules["remixmatch"]["rotation"]
    assert not torch.equal(after.weight, head.weight)


def test_a_rank_turns_its_rows_as_one_process_would():
    x = torch.rand(9, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    whole, angles = turned(x, 0)
    for start, stop in ((0, 3), (3, 6), (6, 9)):
        part, own = turned(x[start:stop], start)
        assert torch.equal(part, whole[start:stop]) and torch.equal(own, angles[start:stop])


def test_no_weight_but_the_first_is_supervised_training_on_strong_views(monkeypatch):
    without_mixing(monkeypatch)

    def strong_as_weak(stream, view, randomness):
        return noisy_view(stream, "weak" if view == "strong" else view, randomness)

    idle = ReMixMatch(weight=0.0, anchor_weight=0.0, rotation_weight=0.0, strong_views=1)
    result = train({"remixmatch": idle}, view=strong_as_weak)
    for name, value in train(view=strong_as_weak).parameters.items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)


def test_equal_distributions_leave_guesses_alone():
    on, off = (
        train({"remixmatch": ReMixMatch(align=align, strong_views=1)}, steps=1)
        for align in (True, False)
    )
    assert on.history[0]["train/confidence"] != off.history[0]["train/confidence"]
    recent = RecentPredictions(3, size=2)
    assert recent.mean().tolist() == pytest.approx([1 / 3] * 3)
    for row in ([0.6, 0.2, 0.2], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]):
        recent.add(torch.tensor([row, row]))
    assert recent.mean().tolist() == pytest.approx([0.6, 0.1, 0.3])


def test_predictions_are_remembered_before_they_are_aligned():
    """The alignment of a step compares with the batches before it alone."""
    result = train({"remixmatch": ReMixMatch(strong_views=1)}, steps=1, lr=0.0)
    network, batch = Setup().network(), Setup(steps=1).batches({"labeled", "unlabeled"})[0]
    with torch.no_grad():
        weak = noisy_view(Stream("unlabeled", **batch["unlabeled"]), "weak", Randomness(0, 0))
        p = network(network.embed(weak)).logits["label"].softmax(1).mean(0)
    recent = result.recipe.method_modules["remixmatch"]["recent"]["label"]
    torch.testing.assert_close(recent.batches[0], p)
    assert int(recent.written) == 1 and recent.batches[1].tolist() == pytest.approx([1 / 3] * 3)


def test_proximity_of_the_specification():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    assert proximity(p, torch.tensor([0, 1, -1])).tolist() == pytest.approx([0.7, 0.2, 1.0])
    distance = (p[0] - torch.tensor([1.0, 0.0, 0.0])).abs().sum()
    assert 1 - 0.5 * float(distance) == pytest.approx(0.7)


def test_what_cannot_be_turned_is_refused():
    method = ReMixMatch(rotation_weight=0.5)
    method.key = "remixmatch"
    refused = "methods.remixmatch.rotation_weight: got 0.5, and texts cannot be turned; expected 0"
    with pytest.raises(UserError, match=refused):
        method.check(Environment("text", frozenset()))
    with pytest.raises(UserError, match=r"rotation_weight: pictures of 8×6 cannot be turned"):
        ReMixMatch().check(Environment("image", frozenset(), shape=(1, 8, 6)))
    ReMixMatch(rotation_weight=0.0).check(Environment("image", frozenset(), shape=(1, 8, 6)))
    ReMixMatch().check(Environment("text", frozenset()))
    learned = ReMixMatch(augmentation="ctaugment")
    with pytest.raises(UserError, match="augmentation: CTAugment changes pictures, and data=trec"):
        learned.check(Environment("text", frozenset(), "trec"))
    with pytest.raises(UserError, match="needs the view 'ctaugment' of the labeled stream"):
        train({"remixmatch": ReMixMatch(augmentation="ctaugment")})


def test_rates_learn_from_probes_and_are_part_of_the_run():
    """m ← .99 m + .01 p_y for the bins of every probe, read in evaluation mode."""
    setup = Setup(dropout=0.5)
    recipe = build({}, setup)
    state = Rates((17, 17), (0, 1), 2, 0.8, 0.99)
    recipe.view_states = nn.ModuleDict({"ctaugment": state})
    assert "view_states.ctaugment.rates" in recipe.state_dict()
    data, targets = setup.samples("labeled", 6)
    x = data.float() / 255

    def draw(*_):
        return Randomness(0, 0).draw("probe", 6)

    step = SimpleNamespace(
        view=lambda stream, view: x,
        view_draw=draw,
        streams={"labeled": SimpleNamespace(targets=targets)},
        tasks=("label",),
    )
    expected = state.rates.clone()
    chosen = state.choice(draw(), learned=False)
    with torch.no_grad():
        p = setup.network().eval()(Embedded(x)).logits["label"].softmax(1)
    for i in range(6):
        for slot in range(2):
            place = int(chosen.codes[i, slot]), int(chosen.bins[i, slot])
            expected[place] = 0.99 * expected[place] + 0.01 * p[i, targets["label"][i]]
    learn_from_probes("ctaugment", step, recipe)
    torch.testing.assert_close(state.rates, expected, atol=1e-6, rtol=0)
    assert recipe.network.training
