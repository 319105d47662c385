"""CTAugment: rates against the plain loop of the paper, draws, and operations against Pillow."""

import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from datamodules.views.image import CTAugment, Weak
from datamodules.views.image.ctaugment import (
    GEOMETRIC,
    OPERATIONS,
    PHOTOMETRIC,
    blurred,
    maps,
)
from datamodules.views.image.ctaugment_rates import BINS, Rates, bin_weights, draw_bins
from foundation.errors import UserError
from foundation.randomness import Randomness


def keyed(rows, step=0):
    return lambda purpose: Randomness(0, step).draw(purpose, rows)


def pictures(rows=5, channels=3, side=20):
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (rows, channels, side, side), generator=source, dtype=torch.uint8)


def rates(bins=(17, 8), threshold=0.8, decay=0.99):
    return Rates(bins, tuple(range(len(bins))), 2, threshold, decay)


def test_the_example_of_the_specification():
    found = rates()
    found.learn(torch.tensor([[0]]), torch.tensor([[3]]), torch.tensor([0.7]))
    assert float(found.rates[0, 3]) == pytest.approx(0.997, abs=1e-7)
    assert float((found.rates != 1).sum()) == 1 + 9  # and the nine bins that are not there
    m = torch.ones(17)
    m[5] = 0.5
    weights = bin_weights(m, 0.0, 0.99)
    assert float(weights[5]) == pytest.approx(0.50495, abs=1e-5)
    assert float(bin_weights(m, 0.8, 0.99)[5]) == 0 and float(bin_weights(m, 0.8, 0.99)[4]) == 1


def test_learning_is_the_loop_over_samples():
    source = torch.Generator().manual_seed(0)
    found = rates((17, 17, 8), decay=0.9)
    expected = found.rates.clone()
    codes = torch.randint(0, 2, (40, 2), generator=source)
    bins = torch.randint(0, 5, (40, 2), generator=source)
    values = torch.rand(40, generator=source)
    found.learn(codes, bins, values)
    for sample in range(40):
        for slot in range(2):
            op, place = int(codes[sample, slot]), int(bins[sample, slot])
            expected[op, place] = 0.9 * expected[op, place] + 0.1 * values[sample]
    torch.testing.assert_close(found.rates, expected, atol=1e-6, rtol=0)


def test_bins_are_drawn_by_weight_and_never_without_one():
    weights = torch.zeros(4000, 17)
    weights[:, [2, 9]] = torch.tensor([1.0, 3.0])
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    drawn = draw_bins(weights, uniform)
    assert drawn.unique().tolist() == [2, 9]
    assert float((drawn == 9).float().mean()) == pytest.approx(0.75, abs=0.02)
    edges = draw_bins(weights[:2], torch.tensor([0.0, 1.0 - 2.0**-24]))
    assert edges.tolist() == [2, 9]


def test_probes_are_uniform_over_the_bins_that_there_are():
    found = rates()
    found.rates[0, :9] = 0.1
    choice = found.choice(Randomness(0, 0).draw("p", 6000), learned=False)
    for code, count in ((0, 17), (1, 8)):
        own = choice.bins[choice.codes == code]
        share = own.bincount(minlength=BINS).float() / len(own)
        assert float(share[count:].sum()) == 0
        assert float((share[:count] - 1 / count).abs().max()) < 0.02
    learned = found.choice(Randomness(0, 0).draw("p", 6000))
    assert int(learned.bins[learned.codes == 0].min()) == 9
    level = learned.level[learned.codes == 0]
    assert float(level.min()) >= 9 / 17 and float(level.max()) < 1


@pytest.mark.parametrize("level", [0.0, 0.3, 0.97])
def test_blends_are_those_of_pillow(level):
    pixels = pictures(2)
    changed = {
        "autocontrast": ImageOps.autocontrast,
        "blur": lambda picture: picture.filter(ImageFilter.BLUR),
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "smooth": lambda picture: picture.filter(ImageFilter.SMOOTH),
    }
    for name, function in changed.items():
        found = PHOTOMETRIC[name](pixels.clone(), torch.full((2,), level))
        for i in range(2):
            picture = Image.fromarray(pixels[i].permute(1, 2, 0).numpy())
            expected = Image.blend(picture, function(picture), level)
            expected = torch.tensor(list(expected.getdata())).view(20, 20, 3).permute(2, 0, 1)
            difference = (found[i].long() - expected).abs()
            assert int(difference.max()) <= 1, name
            # smooth blends from the other end, which truncates otherwise
            assert float((difference > 0).float().mean()) < (0.6 if name == "smooth" else 0.02)


def test_a_small_picture_has_no_blur():
    small = pictures(1, side=4)
    assert torch.equal(blurred(small), small)


def test_maps_turn_lean_move_and_crop():
    codes = torch.tensor([OPERATIONS.index(name) for name in GEOMETRIC])
    still = maps(codes, torch.full((6,), 0.5), (20, 20))
    torch.testing.assert_close(still[1:], torch.eye(3).double().expand(5, 3, 3))
    found = maps(codes, torch.ones(6), (20, 10))
    center = torch.tensor([5.0, 10.0, 1.0]).double()
    torch.testing.assert_close(found[0] @ center, center)  # cropped about the middle
    assert float(found[0, 0, 0]) == 0.5 and float(found[0, 1, 1]) == 0.5
    assert float(found[4, 0, 2]) == pytest.approx(3.0) and float(found[5, 1, 2]) == pytest.approx(
        6.0
    )


def test_a_view_is_in_range_keyed_and_varies_with_its_rates():
    view = CTAugment(Weak(flip=False))
    pixels = pictures(32)
    one, again = view(pixels, keyed(32)), view(pixels, keyed(32))
    assert torch.equal(one, again) and one.dtype == torch.float32
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    assert not torch.equal(one, view(pixels, keyed(32, 1)))
    view.state.rates[:, 1:] = view.state.rates[:, 1:] * 0.1
    assert not torch.equal(one, view(pixels, keyed(32)))
    assert torch.equal(
        view.probe(pixels, keyed(32)), CTAugment(Weak(flip=False)).probe(pixels, keyed(32))
    )


def test_only_identity_and_no_box_is_the_weak_view():
    view = CTAugment(exclude=[n for n in OPERATIONS if n != "identity"], cutout=0.0)
    pixels = pictures(8)
    assert torch.equal(view(pixels, keyed(8)), Weak()(pixels, keyed(8)))


def test_every_operation_changes_a_picture():
    pixels = pictures(40, side=24) // 2 + 30  # neither black nor white: autocontrast has room
    for name in OPERATIONS[1:]:
        alone = CTAugment(
            Weak(False, 0.0), exclude=[n for n in OPERATIONS if n != name], cutout=0.0
        )
        changed = (alone(pixels, keyed(40)) != pixels.float() / 255).flatten(1).any(1)
        assert float(changed.float().mean()) > 0.6, name


def test_a_wrong_pool_is_refused():
    with pytest.raises(UserError, match="operation 'rotat' is unknown; did you mean 'rotate'"):
        CTAugment(exclude=["rotat"])
    with pytest.raises(UserError, match="exclude leaves no operation"):
        CTAugment(exclude=list(OPERATIONS))
