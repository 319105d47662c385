import torch

from methods.adversarial.reported_victim import ReportedVictim
from methods.adversarial.smoothing import Smoothing, gaussian, mean, median
from recipes.step import Embedded
from tests.support.harness import Setup, build

EXAMPLE = torch.arange(16.0).view(1, 1, 4, 4).clone()
EXAMPLE[0, 0, 1, 1] = 99


def test_median_of_the_specification():
    assert median(EXAMPLE, 2)[0, 0].tolist() == [
        [0, 1, 2, 3],
        [4, 4, 6, 6],
        [8, 9, 10, 10],
        [12, 12, 13, 14],
    ]
    assert median(EXAMPLE, 3)[0, 0].tolist() == [
        [1, 2, 3, 3],
        [4, 6, 7, 7],
        [9, 10, 11, 11],
        [12, 12, 13, 14],
    ]


def test_mean_and_gaussian_of_the_specification():
    second = torch.tensor([14.77777778, 15.44444444, 16.44444444, 6.66666667])
    torch.testing.assert_close(mean(EXAMPLE, 3)[0, 0, 1], second)
    second = torch.tensor([15.90149325, 20.61050838, 15.37441585, 9.04082383])
    torch.testing.assert_close(gaussian(EXAMPLE, 1.0)[0, 0, 1], second)


def test_the_reported_network_sees_the_filtered_picture_and_the_raw_one_does_not():
    recipe = build({"smoothing": Smoothing("mean", 3)}, Setup()).eval()
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        recipe.predict_logits(x)["label"], recipe.network(Embedded(mean(x, 3))).logits["label"]
    )
    assert torch.equal(
        recipe.predict_logits(x, raw=True)["label"], recipe.network(Embedded(x)).logits["label"]
    )
    assert recipe.evaluator.variants == (False, True)


def test_an_attack_goes_through_the_filter():
    """Mean: by its true gradient. Median: forward the filter, backward the identity."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = {"label": torch.tensor([0, 1])}
    for smoothing in (Smoothing("mean", 3), Smoothing("median", 3)):
        recipe = build({"smoothing": smoothing}, Setup()).eval()
        value = ReportedVictim(recipe, Embedded(x), y, torch.arange(2)).objective("ce")
        plain = ReportedVictim(
            build({}, Setup(), recipe.network).eval(), Embedded(x), y, torch.arange(2)
        ).objective("ce")
        filtered = smoothing.smooth(x)
        leaf, inner = x.clone().requires_grad_(), filtered.clone().requires_grad_()
        (found,) = torch.autograd.grad(value(leaf).sum(), leaf)
        (at_filtered,) = torch.autograd.grad(plain(inner).sum(), inner)
        if smoothing.filter == "median":
            torch.testing.assert_close(found, at_filtered)
            assert torch.equal(filtered, median(x, 3))
        else:
            direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(
                (found * direction).sum(), (at_filtered * mean(direction, 3)).sum()
            )
