"""Attacks as objects: each is its function with settings, alike for training and evaluation, and
refused in one line on data that it cannot attack."""

import inspect

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from foundation.errors import UserError
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Attack, Victim
from methods.adversarial.attacks.bim import BIM, paper_steps
from methods.adversarial.attacks.dim import DIM
from methods.adversarial.attacks.fgsm import FGSM, fgsm
from methods.adversarial.attacks.mi_fgsm import MIFGSM, mi_fgsm
from methods.adversarial.attacks.ni_fgsm import NIFGSM
from methods.adversarial.attacks.one_pixel import OnePixel
from methods.adversarial.attacks.pgd import PGD, pgd
from methods.adversarial.attacks.proxy import Proxy
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.attacks.threat import Threat, length
from methods.adversarial.attacks.tim import TIM, kernel, smoothed
from recipes.config.groups import CONFIGS
from recipes.contract.environment import Environment
from tests.support.worked_attacks import X, Y, convolutional, linear, of, pictures, value

FILES = sorted((CONFIGS / "attack").glob("*.yaml"))
MODEL = convolutional()
PIXELS, LABELS = pictures()
LINF = Threat("linf", 0.1)
ALL = {path.stem: instantiate(OmegaConf.load(path)) for path in FILES}
ALL |= {"tim": TIM(reach=2), "square": Square(20), "one_pixel": OnePixel(1, 12, 3)}
# its proxy here is the network itself
ALL["black_box"].proxies = [Proxy(lambda x: {"label": MODEL(x)}, 0)]


def victim(x=PIXELS, y=LABELS):
    return Victim(lambda x: {"label": MODEL(x)}, x, {"label": y})


def draws(rows=6, first=0):
    return SampleRandomness(0, torch.arange(first, first + rows)).draw


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_signatures_agree(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    found = get_class(node.pop("_target_"))
    arguments = inspect.signature(found).parameters
    assert issubclass(found, Attack)
    assert node == {name: entry.default for name, entry in arguments.items()}


@pytest.mark.parametrize("name", ALL)
def test_a_sample_is_attacked_alike_alone_and_in_a_batch(name):
    """Random numbers are of the sample: dim, tim and the searches too."""
    attack = ALL[name]
    whole = attack(victim(), LINF, draws())
    for i in (0, 4):
        some = victim(PIXELS[i : i + 1], LABELS[i : i + 1])
        alone = attack(some, LINF, draws(1, i))
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=0)
    assert whole.dtype == torch.float32 and not whole.requires_grad
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", [name for name, attack in ALL.items() if attack.by_gradient])
def test_points_stay_in_the_ball_and_begin_at_the_start(name, norm):
    attack = ALL[name]
    size = {"linf": lambda d: d.flatten(1).abs().amax(1), "l2": length}[norm]
    for eps in (0.0, 0.2):
        there = attack(victim(), Threat(norm, eps), draws())
        most = float(size(there - PIXELS).max())
        assert most <= eps + 1e-6 and (most > 0) == (eps > 0)
    start = 0.3 * torch.randn(PIXELS.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    raised = of(MODEL, LABELS)
    watched = Victim(
        lambda x: {"label": MODEL(x)},
        PIXELS,
        {"label": LABELS},
        lambda x: (seen.append(x.detach()), raised(x))[1],
    )
    threat = Threat(norm, 0.2)
    if name not in ("dim", "tim"):
        attack(watched, threat, draws(), start)
        assert torch.equal(seen[0], threat.project(PIXELS, PIXELS + start))


def test_each_object_is_its_function():
    ce = of(MODEL, LABELS)
    start = LINF.random_start(PIXELS, draws()("start"))
    for attack, expected in (
        (FGSM(), fgsm(ce, PIXELS, LINF)),
        (PGD(3), pgd(ce, PIXELS, LINF, 3, 0.025, start)),
        (PGD(3, "2/255", False), pgd(ce, PIXELS, LINF, 3, 2 / 255)),
        (BIM(), pgd(ce, PIXELS, LINF, 29, 1 / 255)),
        (MIFGSM(4), mi_fgsm(ce, PIXELS, LINF, 4, 1.0, 0.025)),
    ):
        assert torch.equal(attack(victim(), LINF, draws()), expected)


def test_steps_of_the_paper():
    assert [paper_steps(levels / 255) for levels in (0, 1, 4, 8, 16)] == [1, 1, 5, 10, 20]


def test_towards_the_least_likely_class_of_the_worked_example():
    worked = Victim(linear, X, {"label": Y})
    there = BIM(1, 0.05, "least_likely")(worked, LINF, draws(1))
    torch.testing.assert_close(there, torch.tensor([[0.25, 0.65, 0.55, 0.85]]))
    assert value(there, 0) == pytest.approx(2.64858535, abs=1e-6)


def test_a_nesterov_step_looks_ahead_by_the_mean_and_not_by_the_sum():
    literal = NIFGSM(5, normalizer="l1")(victim(), LINF, draws())
    momentum = MIFGSM(5)(victim(), LINF, draws())
    ahead = NIFGSM(5)(victim(), LINF, draws())
    torch.testing.assert_close(literal, momentum, atol=1e-6, rtol=0)
    assert float((ahead - momentum).abs().max()) > 0.01
    assert torch.equal(
        NIFGSM(5, momentum=0.0)(victim(), LINF, draws()), BIM(5, 0.02)(victim(), LINF, draws())
    )


def test_kernels_of_the_specification():
    paper = kernel("gaussian", 7)
    assert paper.shape == (15, 15) and float(paper.sum()) == pytest.approx(1, abs=1e-6)
    assert paper[7, 7:9].tolist() == pytest.approx([0.02930283, 0.02673162], abs=1e-8)
    survey = kernel("gaussian", 7, "k/sqrt3")
    assert survey[7, 7:9].tolist() == pytest.approx([0.01109409, 0.01075963], abs=1e-8)
    small = kernel("gaussian", 1, "k/sqrt3")
    assert small[1, 1:].tolist() == pytest.approx([0.47808714, 0.10667566], abs=1e-7)
    assert float(small[0, 0]) == pytest.approx(0.02380256, abs=1e-7)
    assert kernel("linear", 1).tolist() == [
        [0.0625, 0.125, 0.0625], [0.125, 0.25, 0.125], [0.0625, 0.125, 0.0625]
    ]  # fmt: skip
    assert kernel("uniform", 1).flatten().tolist() == pytest.approx([1 / 9] * 9)


def test_a_kernel_of_one_weight_leaves_bim_and_mi_fgsm():
    assert torch.equal(
        TIM(5, reach=0)(victim(), LINF, draws()), BIM(5, 0.02)(victim(), LINF, draws())
    )
    both = [a(victim(), LINF, draws()) for a in (TIM(5, momentum=1.0, reach=0), MIFGSM(5))]
    assert torch.equal(*both)


def test_a_gradient_that_is_not_finite_does_not_spread_over_its_neighbors():
    gradient = torch.zeros(1, 1, 5, 5)
    gradient[0, 0, 2, 2] = torch.nan
    gradient[0, 0, 0, 0] = 9.0
    found = smoothed(gradient, kernel("uniform", 1))
    assert found.isfinite().all() and found[0, 0, :2, :2].tolist() == [[1, 1], [1, 1]]


# -- refusals --------------------------------------------------------------------------------------
IMAGE = Environment("image", frozenset(), "digits", shape=(1, 8, 8))
TEXT = Environment("text", frozenset(), "trec")
REFUSED = {
    r"k.reach: got 4: the kernel is 9 pixels wide, and pictures have 8; expected at most 3": (
        TIM(reach=4), "linf", IMAGE),
    r"k.resize: got 0.1, with which 8 pixels become none; expected at least 0.125": (
        DIM(resize=0.1), "linf", IMAGE),
    r"k.resize: got 1, which changes no picture": (DIM(resize=1.0), "linf", IMAGE),
    r"k.resize: got 0.1, with": (TIM(reach=1, probability=0.5, resize=0.1), "linf", IMAGE),
    r"k.pixels: got 65, and pictures have 64; expected fewer": (OnePixel(65), "linf", IMAGE),
    r"k: Square knows linf; got norm=l2": (Square(), "l2", IMAGE),
    r"k: TIM convolves the gradient over a picture's pixels, and data=trec is text; expected bim": (
        TIM(), "linf", TEXT),
    r"k: DIM resizes pictures, and data=trec is text": (DIM(), "l2", TEXT),
    r"k: OnePixel changes pixels, and data=trec": (OnePixel(), "linf", TEXT),
    r"k.steps: null is the paper's number for gray levels, and embeddings have none; give steps": (
        BIM(), "l2", TEXT),
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_one_line_before_data(line):
    attack, norm, environment = REFUSED[line]
    with pytest.raises(UserError) as refused:
        attack.check("k", norm, environment)
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize("attack", [TIM(reach=3), DIM(), OnePixel(64), Square(), BIM(), FGSM()])
def test_what_fits_is_not_refused(attack):
    for environment in (IMAGE, Environment("image", frozenset())):
        assert attack.check("k", "linf", environment) is None  # and raises nothing


@pytest.mark.parametrize("attack", [FGSM(), PGD(), MIFGSM(), NIFGSM(), BIM(3, 0.1)])
def test_gradient_attacks_work_on_embeddings(attack):
    assert attack.check("k", "l2", TEXT) is None  # and raises nothing
