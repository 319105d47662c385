"""Attacks through a proxy: what it learns from answers, what it may not ask, what success costs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import SampleRandomness
from methods.adversarial.attacks.attack import Victim
from methods.adversarial.attacks.black_box import BlackBox, white_box
from methods.adversarial.attacks.proxy import (
    Fit,
    Proxy,
    ProxyNetwork,
    QueryOnly,
    asked,
    augmented,
    fitted_by_queries,
)
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.pgd_at import PGDAT
from methods.adversarial.robustness import PGDRobustness
from methods.adversarial.trades import TRADES
from methods.adversarial.transfer_robustness import BlackBoxRobustness
from recipes.contract.environment import Environment
from recipes.step import Embedded
from tests.methods.adversarial.test_robustness import linear, measured
from tests.support.harness import Setup, train
from tests.support.worked_attacks import convolutional, pictures

MODEL = convolutional()
X, _ = pictures()
Y = MODEL(X).argmax(1).detach()
LINF = Threat("linf", 0.1)
IMAGES = Environment("image", frozenset(), data="digits", shape=(1, 8, 8))


def draw(purpose):
    return SampleRandomness(0, torch.arange(len(X))).draw(purpose)


def model(x):
    return {"label": MODEL(x)}


# -- the proxy -------------------------------------------------------------------------------------
def test_the_target_answers_and_has_no_gradient():
    only = QueryOnly(model)
    with torch.enable_grad():
        assert not only(X)["label"].requires_grad
        with pytest.raises(RuntimeError, match="has no gradient"):
            only(X.clone().requires_grad_())
    assert only.asked == len(X)


def test_hard_answers_are_classes_and_soft_ones_probabilities():
    hard, soft = (asked(QueryOnly(model), X, hard)["label"] for hard in (True, False))
    assert torch.equal(hard, F.one_hot(Y, 5).float())
    torch.testing.assert_close(soft, MODEL(X).softmax(1).detach())


def test_augmentation_of_a_linear_proxy():
    """x + λ sign(w_y), clipped to the box, y what the target answered."""
    w = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 0.5, 2.0]])
    x = torch.tensor([[0.5, 0.05, 0.5], [0.5, 0.5, 0.95]]).view(2, 3, 1, 1)
    answers = {"label": torch.tensor([[1.0, 0.0], [0.2, 0.8]])}
    found = augmented(lambda x: {"label": x.flatten(1) @ w.T}, x, answers, 0.1)
    expected = torch.tensor([[0.6, 0.0, 0.5], [0.4, 0.6, 1.0]]).view(2, 3, 1, 1)
    torch.testing.assert_close(found, expected)


def test_rounds_double_the_pictures_and_ask_about_each_once():
    only = QueryOnly(model)
    proxies = list(fitted_by_queries(only, X, 3, 0.1, True, Fit(1, 4, 0)))
    assert [proxy.queries for proxy in proxies] == [6, 12, 24, 48]
    assert only.asked == 48


def test_a_proxy_learns_what_the_target_answers_and_is_a_function_of_its_seed():
    source = torch.Generator().manual_seed(1)
    x = torch.rand(200, 1, 8, 8, generator=source)

    def answer(x):
        """Which half of the picture is brighter."""
        return {"label": torch.stack([x[..., :4], x[..., 4:]], 1).flatten(2).mean(2)}

    answers = asked(QueryOnly(answer), x, True)
    first, again, other = (Fit(30, 8, seed).proxy(x, answers, 200) for seed in (0, 0, 1))
    agreement = (first.model(x)["label"].argmax(1) == answers["label"].argmax(1)).float().mean()
    assert agreement > 0.9
    assert torch.equal(first.model(x)["label"], again.model(x)["label"])
    assert not torch.equal(first.model(x)["label"], other.model(x)["label"])


def test_small_and_large_pictures():
    for side in (3, 8, 33):
        network = ProxyNetwork(torch.Size([2, side, side]), {"a": 3, "b": 2}, 4)
        found = network(torch.rand(2, 2, side, side))
        assert {task: tuple(z.shape) for task, z in found.items()} == {"a": (2, 3), "b": (2, 2)}


# -- the attack ------------------------------------------------------------------------------------
def transferred(proxies, threat=LINF, y=Y, **settings):
    attack = BlackBox(**settings)
    attack.proxies = proxies
    return attack.queried(Victim(model, X, {"label": y}), threat, draw)


@pytest.mark.parametrize("name", ["mi_fgsm", "ni_fgsm", "dim", "pgd", "fgsm"])
def test_a_proxy_that_is_the_target_gives_the_white_box_attack(name):
    expected = white_box(name, 7)(Victim(model, X, {"label": Y}), LINF, draw)
    found = transferred([Proxy(model, 0)], transfer=name, steps=7)
    assert torch.equal(found.x, expected)
    assert torch.equal(found.success, MODEL(expected).argmax(1) != Y)
    assert found.success.any()


def test_radius_zero_has_no_success():
    found = transferred([Proxy(model, 0)], Threat("linf", 0.0))
    assert torch.equal(found.x, X) and not found.success.any()


def flat(x):
    return {"label": 0 * MODEL(x)}


def test_a_sample_costs_the_answers_of_the_first_proxy_that_fools_the_target():
    threat = Threat("linf", 0.02)
    white = transferred([Proxy(model, 0)], threat).success
    found = transferred([Proxy(flat, 100), Proxy(model, 200), Proxy(flat, 400)], threat)
    assert torch.equal(found.success, white) and white.any() and not white.all()
    assert torch.equal(found.queries, torch.where(white, 200 + 2, 400 + 3))
    # a later proxy does not touch what has succeeded
    kept = transferred([Proxy(model, 0)], threat).x[white]
    assert torch.equal(found.x[white], kept)


def test_budgets_are_those_of_the_rounds():
    assert BlackBox(queries=80, rounds=3).budgets() == [11, 22, 43, 84]
    assert BlackBox(proxy="train_data").budgets() == [1]
    assert BlackBox(queries=90, rounds=3).pictures == 11


# -- the measurement -------------------------------------------------------------------------------
def fitted(probe, recipe, x):
    """The probe with the pictures that a run would draw."""
    recipe.reported.drawn_samples = lambda count: {
        "data": x[:count],
        "targets": {"label": recipe.network(Embedded(x[:count])).logits["label"].argmax(1)},
        "index": torch.arange(len(x[:count])),
    }
    recipe.reported.make_view = lambda stream, view, randomness: stream.data
    return probe


@pytest.mark.parametrize("source", ["query", "train_data"])
def test_transfer_to_a_linear_network(source):
    recipe, x, y = linear(120)
    settings = {"proxy": source, "queries": 160, "rounds": 2, "passes": 40, "width": 8}
    probe = fitted(BlackBoxRobustness(eps=0.1, **settings), recipe, 1 - x)
    found = measured(probe, recipe, x, y)
    white = measured(PGDRobustness(eps=0.1), recipe, x, y)
    assert found["clean_accuracy"] == pytest.approx(0.9)
    assert white["robust_accuracy"] <= found["robust_accuracy"] < 0.7
    assert found["agreement"] > 0.6 and 0 < found["proxy_success"] <= 1
    budgets = [41, 82, 163] if source == "query" else [1]
    curve = [found[f"success@{budget}"] for budget in budgets]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(1 - found["robust_accuracy"] / 0.9, abs=1e-6)
    again = measured(fitted(probe, recipe, 1 - x), recipe, x, y)
    assert again == found, "it is trained anew, and equal"


def test_without_enough_queries_it_is_refused():
    probe = BlackBoxRobustness(queries=20, rounds=6)
    with pytest.raises(UserError) as refusal:
        probe.check(IMAGES)
    assert str(refusal.value) == (
        "evaluate.attack.queries: got 20, which 6 doublings do not leave one picture of; expected "
        "at least 64, or fewer evaluate.attack.rounds"
    )
    BlackBoxRobustness(queries=64, rounds=6).check(IMAGES)
    with pytest.raises(UserError, match=r"evaluate.attack.run: there is no 'nowhere'"):
        BlackBoxRobustness(run="nowhere").check(IMAGES)
    with pytest.raises(UserError, match="BlackBox trains a network on pictures"):
        BlackBoxRobustness().check(Environment("text", frozenset()))


def test_training_takes_it_from_a_run_alone(tmp_path):
    with pytest.raises(UserError) as refusal:
        train({"pgd_at": PGDAT(attack=BlackBox())})
    assert str(refusal.value) == (
        "methods.pgd_at.attack: BlackBox trains a proxy of one fixed network; give "
        "methods.pgd_at.attack.run=RUN, a run whose network is the proxy"
    )
    Path(tmp_path / "some.ckpt").touch()
    attack = BlackBox(run=str(tmp_path / "some.ckpt"))
    attack.proxies = [Proxy(lambda x: Setup().network()(Embedded(x)).logits, 0)]
    result = train({"pgd_at": PGDAT(eps=0.2, attack=attack)}, steps=2)
    assert result.losses != train(steps=2).losses
    with pytest.raises(UserError, match=r"methods.trades.attack: raises a divergence"):
        train({"trades": TRADES(attack=attack)})
