import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import SampleRandomness
from methods.adversarial.randomization import Randomization, resize_and_pad
from methods.adversarial.robustness import FGSMRobustness, PGDRobustness, SquareRobustness
from recipes.step import Embedded, Output
from tests.support.harness import Setup, build

X = torch.rand(4, 3, 8, 10, generator=torch.Generator().manual_seed(0))


SIDES = {
    "bilinear": [[8, 10], [9, 11], [11, 13], [16, 10]],
    # at these a pixel's centre is never halfway between two others
    "nearest": [[8, 10], [16, 20], [16, 10], [8, 20]],
}


@pytest.mark.parametrize("mode", SIDES)
def test_each_picture_equals_torchs_resize_and_pad(mode):
    side, corner = torch.tensor(SIDES[mode]), torch.tensor([[0, 0], [1, 2], [1, 1], [0, 1]])
    found = resize_and_pad(X, side, corner, (17, 22), mode, 0.5)
    for i in range(4):
        height, width = side[i].tolist()
        top, left = corner[i].tolist()
        # torch's plain `nearest` does not measure from the centres of pixels
        options = (
            {"mode": mode, "align_corners": False}
            if mode == "bilinear"
            else {"mode": "nearest-exact"}
        )
        small = F.interpolate(X[i : i + 1], (height, width), **options)
        expected = F.pad(small, (left, 22 - width - left, top, 17 - height - top), value=0.5)
        torch.testing.assert_close(found[i : i + 1], expected, atol=2e-6, rtol=0)


def laid(method, index, number=0):
    return method.resized(X[: len(index)], SampleRandomness(0, index), number)


def test_draws_belong_to_the_sample_and_cover_the_canvas():
    method = Randomization(enlarge=1.5)
    method.key = "randomization"
    whole = laid(method, torch.tensor([5, 6, 7, 8]))
    assert whole.shape == (4, 3, 12, 15)
    assert torch.equal(whole, laid(method, torch.tensor([5, 6, 7, 8])))
    assert torch.equal(whole[:2], laid(method, torch.tensor([5, 6])))
    assert not torch.equal(whole, laid(method, torch.tensor([5, 6, 7, 8]), 1))
    ones = torch.ones(400, 1, 8, 8)
    there = method.resized(ones, SampleRandomness(0, torch.arange(400)), 0)
    sides = there.amax(3).sum(2).flatten()
    assert sides.unique().tolist() == [8, 9, 10, 11]
    assert (there.amax(1).amax(0) == 1).all(), "some place of the canvas is never covered"


class Pooled(torch.nn.Module):
    """Logits are mean and variance of the picture, for pictures of any side."""

    def embed(self, view):
        return Embedded(view)

    def forward(self, embedded):
        z = torch.stack(
            [embedded.x.mean((1, 2, 3)), embedded.x.var((1, 2, 3)), embedded.x.amax((1, 2, 3))], 1
        )
        return Output(z, {"label": 9 * z})


def test_several_passes_average_probabilities():
    method = Randomization(enlarge=1.5, passes=3)
    recipe = build({"randomization": method}, Setup(), Pooled()).eval()
    index = torch.tensor([5, 6, 7, 8])
    found = recipe.predict_logits(X, index=index)["label"]
    singles = [
        recipe.network(Embedded(laid(method, index, i))).logits["label"].softmax(1)
        for i in range(3)
    ]
    torch.testing.assert_close(found.exp(), torch.stack(singles).mean(0))
    assert torch.equal(found, recipe.predict_logits(X, index=index)["label"])


def test_an_attack_must_average_over_draws():
    recipe = build({"randomization": Randomization(enlarge=1.5)}, Setup(), Pooled())
    refused = PGDRobustness().refusal(recipe.composition)
    assert (
        refused.startswith("methods.randomization makes random predictions")
        and "evaluate.attack.draws=10" in refused
    )
    assert (
        PGDRobustness(draws=2).refusal(recipe.composition)
        == SquareRobustness().refusal(recipe.composition)
        == ""
    )
    assert FGSMRobustness().refusal(build({}, Setup()).composition) == ""


def test_averaged_gradients_use_other_draws_than_the_evaluation_and_repeat():
    recipe = build({"randomization": Randomization(enlarge=1.5)}, Setup(), Pooled()).eval()
    y = {"label": torch.tensor([0, 1, 2, 0])}

    def measured():
        probe = PGDRobustness("linf", 0.1, steps=2, draws=3)
        probe.update(recipe, X, y, torch.arange(4))
        return {name: float(v) for name, v in probe.compute().items()}

    found = measured()
    assert found == measured()
    assert found["robust_loss"] > 0 and found["vanishing_gradients"] == 0


def test_texts_are_refused():
    with pytest.raises(UserError, match=r"methods.randomization works on image data"):
        build({"randomization": Randomization()}, Setup(kind="text"))
