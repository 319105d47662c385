import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import Randomness
from methods.regularization.cutmix import CutMix
from methods.regularization.mixup import Mixup
from methods.regularization.sam import SAM
from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.mixmatch import MixMatch, mix
from recipes.step import Embedded, Stream
from tests.support.harness import Setup, noisy_view, train, values_differ


def test_squared_distance_worked_example():
    p = torch.softmax(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1)
    q = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert float(squared_distance(p, q).mean()) == pytest.approx(0.00256084, abs=1e-8)


def pool(rows: int = 9) -> tuple[Embedded, dict[str, torch.Tensor]]:
    source = torch.Generator().manual_seed(0)
    targets = torch.softmax(torch.randn(rows, 4, generator=source), 1)
    return Embedded(torch.randn(rows, 3, 2, 2, generator=source)), {"label": targets}


def test_share_one_leaves_everything_and_the_first_sample_always_dominates():
    embedded, targets = pool()
    partner = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    for share in (torch.ones(9), torch.zeros(9)):
        x, y = mix(embedded, targets, partner, share)
        assert torch.equal(x.x, embedded.x) and torch.equal(y["label"], targets["label"])


def test_mixing_is_sample_by_sample_and_keeps_the_mass_of_labels():
    embedded, targets = pool()
    source = torch.Generator().manual_seed(2)
    partner, share = torch.randperm(9, generator=source), torch.rand(9, generator=source)
    x, y = mix(embedded, targets, partner, share)
    torch.testing.assert_close(y["label"].sum(1), torch.ones(9))
    for i in range(9):
        lam, j = max(float(share[i]), 1 - float(share[i])), int(partner[i])
        torch.testing.assert_close(x.x[i], lam * embedded.x[i] + (1 - lam) * embedded.x[j])
        torch.testing.assert_close(
            y["label"][i], lam * targets["label"][i] + (1 - lam) * targets["label"][j]
        )


def without_mixing(monkeypatch):
    def identity(step, key, rows, alpha, per_sample):
        return torch.ones(rows), torch.arange(rows)

    monkeypatch.setattr("methods.semi_supervised.mixmatch.draw_mixing", identity)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_without_mixing_it_is_cross_entropy_and_the_distance_to_the_own_sharpened_average(
    kind, monkeypatch
):
    without_mixing(monkeypatch)
    setup = Setup(kind=kind, steps=1)
    history = train(
        {"mixmatch": MixMatch(ramp_end=0.0, temperature=0.5, align=0)}, kind=kind, steps=1
    ).history[0]
    network, batch = setup.network(), setup.batches({"labeled", "unlabeled"})[0]
    streams = {name: Stream(name, **batch[name]) for name in ("labeled", "unlabeled")}

    def probabilities(view):
        embedded = network.embed(noisy_view(streams["unlabeled"], view, Randomness(0, 0)))
        return torch.softmax(network(embedded).logits["label"], 1)

    with torch.no_grad():
        a, b = probabilities("weak"), probabilities("weak2")
        mean = (a + b) / 2
        q = mean**2 / (mean**2).sum(1, keepdim=True)
        expected = (F.mse_loss(a, q) + F.mse_loss(b, q)) / 2
        labeled = network(
            network.embed(noisy_view(streams["labeled"], "weak", Randomness(0, 0)))
        ).logits["label"]
        supervised = F.cross_entropy(labeled, batch["labeled"]["targets"]["label"])
    assert history["train/mixmatch"] == pytest.approx(float(expected), abs=1e-6)
    assert history["train/supervised"] == pytest.approx(float(supervised), abs=1e-6)
    assert history["train/confidence"] == pytest.approx(float(mean.amax(1).mean()), abs=1e-6)
    truth = batch["unlabeled"]["targets"]["label"]
    assert history["train/pseudo_accuracy"] == pytest.approx(
        float((mean.argmax(1) == truth).float().mean())
    )


def test_one_view_neither_sharpened_nor_mixed_agrees_with_itself(monkeypatch):
    without_mixing(monkeypatch)
    method = MixMatch(ramp_end=0.0, views=1, temperature=1.0, align=0)
    result, plain = train({"mixmatch": method}, steps=3), train(steps=3)
    assert [row["train/mixmatch"] for row in result.history] == pytest.approx([0, 0, 0], abs=1e-12)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(result.parameters[name], value, atol=1e-6, rtol=0)


class Watch(MixMatch):
    """Keeps the inputs and terms of every pass."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def terms(self, step, recipe):
        super().terms(step, recipe)
        self.seen.append((dict(step.inputs), dict(step.terms), dict(step.outputs)))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_labeled_and_unlabeled_meet_in_one_pool(kind):
    method = Watch(alpha=4.0)
    train({"mixmatch": method}, kind=kind, steps=1, labeled=6, unlabeled=12)
    inputs = method.seen[0][0]
    labeled, unlabeled = inputs["labeled"], inputs["mixmatch/unlabeled"]
    assert labeled.size == 6 and unlabeled.size == 24
    for entry in (labeled, unlabeled):
        target = entry.targets["label"]
        assert target.shape == (entry.size, 3)
        torch.testing.assert_close(target.sum(1), torch.ones(entry.size))
        assert not target.requires_grad
    # a mixed label that is neither one class nor two of them: its partner was a guess
    assert bool(((labeled.targets["label"] > 0.001).sum(1) == 3).any())
    if kind == "text":
        assert labeled.embedded.mask.shape[1] == unlabeled.embedded.mask.shape[1]


def test_a_partner_without_a_label_leaves_its_row_out():
    method = Watch(alpha=1.0)
    result = train({"mixmatch": method}, tasks={"a": 3, "b": 2}, steps=3, missing=True, labeled=9)
    masks = torch.cat([terms[f"mixmatch/{t}"].mask for _, terms, _ in method.seen for t in "ab"])
    assert 0 < float(masks.float().mean()) < 1
    for inputs, terms, _ in method.seen:
        for task in "ab":
            mass = inputs["mixmatch/unlabeled"].targets[task].sum(1)
            assert torch.equal(terms[f"mixmatch/{task}"].mask, mass > 0.999)
    assert all(row["train/mixmatch/a"] > 0 for row in result.history)


def test_guesses_do_not_count_in_batch_statistics_and_pool_is_one_forward():
    method = Watch()
    result = train({"mixmatch": method}, steps=3, norm=True)
    assert result.recipe.network.sizes == [24, 30] * 3
    assert int(result.parameters["body.1.num_batches_tracked"]) == 3


def test_the_guess_carries_no_gradient_to_the_network():
    method = Watch(ramp_end=0.0)
    train({"mixmatch": method}, steps=1)
    inputs, terms, outputs = method.seen[0]
    assert not inputs["mixmatch/unlabeled"].targets["label"].requires_grad
    assert terms["mixmatch"].values.requires_grad
    p = torch.softmax(outputs["mixmatch/unlabeled"].logits["label"], 1)
    expected = squared_distance(p, inputs["mixmatch/unlabeled"].targets["label"])
    torch.testing.assert_close(terms["mixmatch"].values, expected)


def test_ramp_of_the_paper_in_shares_of_the_run():
    method = Watch(weight=75.0, ramp_end=0.5)
    train({"mixmatch": method}, steps=5, total=8)
    weights = [terms["mixmatch"].weight for _, terms, _ in method.seen]
    assert weights == pytest.approx([0, 18.75, 37.5, 56.25, 75])


def test_a_replay_repeats_the_mixing():
    method = Watch()
    train({"mixmatch": method, "sam": SAM()}, steps=2)
    for (first, *_), (second, *_) in zip(method.seen[::2], method.seen[1::2], strict=True):
        torch.testing.assert_close(
            first["mixmatch/unlabeled"].embedded.x, second["mixmatch/unlabeled"].embedded.x
        )
        # the guess is that of the perturbed weights
        assert not torch.equal(
            *(entry["mixmatch/unlabeled"].targets["label"] for entry in (first, second))
        )


@pytest.mark.parametrize("other", [Mixup(), CutMix(), FixMatch()], ids=lambda m: type(m).__name__)
def test_another_mixer_or_another_maker_of_labels_is_refused(other):
    with pytest.raises(UserError, match="both own"):
        Setup().composition({"mixmatch": MixMatch(), "other": other})


def test_it_learns_something_else_than_mixup_alone():
    one, two = (
        train({"m": MixMatch(ramp_end=0.0)}, steps=2),
        train({"m": MixMatch(weight=0.0)}, steps=2),
    )
    assert values_differ(one.parameters, two.parameters)
