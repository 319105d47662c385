import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import Randomness
from methods.regularization.label_smoothing import MOST_IN_TABLE, LabelSmoothing, Smoothed, smooth
from methods.regularization.mixup import Mixup
from recipes.step import Stream
from recipes.step.criterion import cross_entropy, one_hot
from tests.support.harness import Setup, noisy_view, train


@pytest.mark.parametrize(
    ("convention", "expected"), [("uniform", 0.507606), ("other_classes", 0.557606)]
)
def test_worked_example(convention, expected):
    target = smooth(torch.tensor([[1.0, 0, 0]]), 0.1, convention)
    assert float(cross_entropy(torch.tensor([[2.0, 1, 0]]), target)) == pytest.approx(
        expected, abs=1e-6
    )


def test_uniform_is_torchs_and_the_other_is_torchs_with_another_epsilon():
    source = torch.Generator().manual_seed(0)
    z, y = torch.randn(16, 5, generator=source), torch.randint(5, (16,), generator=source)
    for convention, epsilon in (("uniform", 0.2), ("other_classes", 0.2 * 5 / 4)):
        ours = cross_entropy(z, smooth(one_hot(y, 5), 0.2, convention))
        expected = F.cross_entropy(z, y, label_smoothing=epsilon, reduction="none")
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("convention", ["uniform", "other_classes"])
def test_the_table_is_the_formula_to_the_bit(convention):
    target = torch.tensor([2, -1, 0, 4, -1, 3, 1])
    assert torch.equal(
        Smoothed(5, 0.3, convention).table[target], smooth(one_hot(target, 5), 0.3, convention)
    )


@pytest.mark.parametrize("convention", ["uniform", "other_classes"])
def test_mass_is_kept_and_a_missing_label_stays_missing(convention):
    dense = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    torch.testing.assert_close(smooth(dense, 0.3, convention).sum(1), dense.sum(1))
    assert smooth(dense, 0.3, convention)[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(smooth(dense, 0.0, convention), dense)


def test_in_training_the_loss_is_torchs():
    result = train({"label_smoothing": LabelSmoothing(0.3)}, steps=1)
    setup, batch = Setup(), Setup(steps=1).batches({"labeled"})[0]
    plain = train(steps=1)
    network = setup.network()
    view = noisy_view(Stream("labeled", **batch["labeled"]), "weak", Randomness(0, 0))
    expected = F.cross_entropy(
        network(network.embed(view)).logits["label"],
        batch["labeled"]["targets"]["label"],
        label_smoothing=0.3,
    )
    assert result.losses[0] == pytest.approx(expected.item(), abs=1e-6)
    assert result.losses[0] != plain.losses[0]


def test_mixed_targets_are_smoothed_after_mixing_whatever_the_config_says_first():
    methods = {"label_smoothing": LabelSmoothing(0.1), "mixup": Mixup()}
    assert list(Setup().composition(methods).methods) == ["mixup", "label_smoothing"]
    a = train(methods, steps=2).losses
    b = train({"mixup": Mixup(), "label_smoothing": LabelSmoothing(0.1)}, steps=2).losses
    assert a == b


def test_epsilon_zero_is_supervised_training():
    assert train({"label_smoothing": LabelSmoothing(0.0)}, steps=3).losses == pytest.approx(
        train(steps=3).losses, abs=1e-6
    )


@pytest.mark.parametrize("convention", ["uniform", "other_classes"])
def test_many_classes_have_no_table(convention):
    made = Smoothed(MOST_IN_TABLE + 1, 0.1, convention)
    target = torch.tensor([3, -1, MOST_IN_TABLE])
    assert made.table.numel() <= 1
    expected = smooth(one_hot(target, MOST_IN_TABLE + 1), 0.1, convention)
    assert torch.equal(made(target), expected)
    small = Smoothed(5, 0.1, convention)
    labels = torch.tensor([4, -1])
    assert torch.equal(small(labels), smooth(one_hot(labels, 5), 0.1, convention))
