import dataclasses
import inspect

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from foundation.errors import UserError
from methods.adversarial.attacks.threat import Threat, length
from methods.adversarial.reported_victim import ReportedVictim
from methods.adversarial.robust_accuracy import Robustness
from methods.adversarial.robustness import (
    FGSMRobustness,
    MIFGSMRobustness,
    PGDRobustness,
    SquareRobustness,
)
from methods.averaging.ema import EMA
from methods.long_tail.posthoc_logit_adjustment import PosthocLogitAdjustment
from recipes.config.groups import CONFIGS
from recipes.engine.recipe import Recipe
from recipes.step import Embedded, Output
from tests.support.harness import Batches, Setup, build, small_trainer, train

FILES = sorted((CONFIGS / "evaluate" / "attack").glob("*.yaml"))


class Linear(nn.Module):
    """Two classes: z = W x, times a scale."""

    def __init__(self, scale=1.0):
        super().__init__()
        source = torch.Generator().manual_seed(1)
        self.scale, self.weight = scale, nn.Parameter(torch.randn(2, 48, generator=source))

    def embed(self, view):
        return Embedded(view)

    def forward(self, embedded):
        z = self.scale * embedded.x.flatten(1) @ self.weight.T
        return Output(z, {"label": z})


def linear(rows=60, scale=1.0):
    """A recipe around it, and pictures away from the box with labels of which some are wrong."""
    setup = Setup(tasks={"label": 2})
    recipe = build({}, setup, Linear(scale)).eval()
    source = torch.Generator().manual_seed(2)
    x = 0.3 + 0.4 * torch.rand(rows, 3, 4, 4, generator=source)
    y = recipe.network(Embedded(x)).logits["label"].argmax(1)
    y[::10] = 1 - y[::10]
    return recipe, x, y


def measured(probe, recipe, x, y, index=None):
    with torch.no_grad():
        probe.update(recipe, x, {"label": y}, torch.arange(len(y)) if index is None else index)
    return {name: float(value) for name, value in probe.compute().items()}


class Undefined(Linear):
    """The same logits, with gradients that are not finite."""

    def forward(self, embedded):
        z = super().forward(embedded).logits["label"]
        z = z + (embedded.x * 0).abs().sqrt().flatten(1).sum(1, keepdim=True)
        return Output(z, {"label": z})


def test_a_gradient_that_is_not_finite_moves_nobody_and_is_an_alarm():
    recipe, x, y = linear()
    recipe.network = Undefined()
    with pytest.warns(UserWarning, match="no gradient for 100% of the samples"):
        found = measured(PGDRobustness(eps=0.1, steps=2), recipe, x, y)
    assert found["vanishing_gradients"] == 1 and found["robust_accuracy"] <= found["clean_accuracy"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_network_is_robust_where_theory_says(norm):
    """Robust iff z_y - z_other > eps ‖w_y - w_other‖ in the dual norm: ‖·‖₁ for linf, ‖·‖₂ for
    l2."""
    recipe, x, y = linear()
    w = recipe.network.weight
    margins = (recipe.network(Embedded(x)).logits["label"] * (2 * F.one_hot(y, 2) - 1)).sum(1)
    dual = (w[0] - w[1]).abs().sum() if norm == "linf" else (w[0] - w[1]).norm()
    eps = {"linf": 0.02, "l2": 0.14}[norm]
    expected = float((margins > eps * dual).float().mean())
    assert 0.1 < expected < 0.8
    for probe in (
        FGSMRobustness(norm, eps),
        PGDRobustness(norm, eps, steps=12),
        MIFGSMRobustness(norm, eps),
    ):
        found = measured(probe, recipe, x, y)
        assert found["robust_accuracy"] == pytest.approx(expected)
        assert found["clean_accuracy"] == pytest.approx(0.9)
        assert found["vanishing_gradients"] == 0
        worst = F.softplus(eps * dual - margins).mean()
        assert found["robust_loss"] == pytest.approx(
            worst.item(), rel=1e-2 if norm == "l2" else 1e-4
        )


class Restarts(Robustness):
    """Restart r turns the labels of the samples that are r modulo 3."""

    restarts = 2

    def __init__(self):
        super().__init__("linf", 0.1, None)
        self.attempts = []

    def attack(self, victim, threat, draw):
        self.attempts.append(draw("start").uniform(2))
        r = len(self.attempts)
        turned = torch.where(victim.index.view(-1, 1, 1, 1) % 3 == r, 1 - victim.x, victim.x)
        return turned


def test_the_worst_case_is_by_sample_over_restarts_and_clean_errors_count():
    recipe, x, y = linear()
    probe = Restarts()
    found = measured(probe, recipe, x, y)
    with torch.no_grad():
        clean, turned = (recipe.predict_logits(p)["label"] for p in (x, 1 - x))
    hit = torch.arange(60) % 3 > 0
    right = (clean.argmax(1) == y) & (~hit | (turned.argmax(1) == y))
    assert found["robust_accuracy"] == pytest.approx(float(right.float().mean()))
    losses = [F.cross_entropy(z, y, reduction="none") for z in (clean, turned)]
    worst = torch.where(hit, torch.maximum(*losses), losses[0])
    assert found["robust_loss"] == pytest.approx(float(worst.mean()), rel=1e-5)
    assert not torch.equal(*probe.attempts)


class Correcting(Robustness):
    """Turns every sample over: those that were wrong become right."""

    def __init__(self):
        super().__init__("linf", 0.1, None)

    def attack(self, victim, threat, draw):
        return 1 - victim.x


def test_a_clean_error_that_the_attack_corrects_is_not_robust():
    recipe, x, _ = linear()
    with torch.no_grad():
        turned = recipe.predict_logits(1 - x)["label"].argmax(1)
        clean = recipe.predict_logits(x)["label"].argmax(1)
    expected = float((clean == turned).float().mean())
    found = measured(Correcting(), recipe, x, turned)
    assert found["clean_accuracy"] == found["robust_accuracy"] == pytest.approx(expected)
    assert expected < 0.9


def test_more_restarts_never_raise_accuracy():
    recipe, x, y = linear()
    one, three = (
        measured(PGDRobustness("linf", 0.02, steps=1, restarts=r), recipe, x, y) for r in (1, 3)
    )
    assert three["robust_accuracy"] <= one["robust_accuracy"]
    assert three["robust_loss"] > one["robust_loss"]


@pytest.mark.parametrize(
    "make",
    [
        lambda s: PGDRobustness("linf", 0.02, samples=s),
        lambda s: SquareRobustness(0.02, 9, samples=s),
    ],
)
def test_the_first_samples_by_number_in_any_batches(make):
    recipe, x, y = linear()
    whole, split = make(25), make(25)
    expected = measured(whole, recipe, x, y)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    for part in order.split(17):
        found = measured(split, recipe, x[part], y[part], part)
    assert found == pytest.approx(expected)
    assert expected == pytest.approx(measured(make(None), recipe, x[:25], y[:25]))
    split.reset()
    assert split.compute() == {}


def test_a_masked_gradient_raises_the_alarm_and_queries_see_through_it():
    """The logits times 1e6 saturate the softmax: the gradient of cross-entropy is exactly zero."""
    recipe, x, y = linear()
    masked, *_ = linear(scale=1e6)
    honest = measured(PGDRobustness("linf", 0.04, random_start=False), recipe, x, y)
    with pytest.warns(UserWarning, match="no gradient for 9\\d% of the samples"):
        fooled = measured(PGDRobustness("linf", 0.04, random_start=False), masked, x, y)
    assert fooled["robust_accuracy"] == pytest.approx(0.9) and fooled["vanishing_gradients"] > 0.85
    assert honest["robust_accuracy"] < 0.5 and honest["vanishing_gradients"] == 0
    # the loss of the attack is watched: this one has a gradient
    margin = measured(PGDRobustness("linf", 0.04, random_start=False, loss="margin"), masked, x, y)
    assert margin["robust_accuracy"] == pytest.approx(honest["robust_accuracy"])
    assert margin["vanishing_gradients"] == 0
    square = measured(SquareRobustness(0.04, 200), masked, x, y)
    assert square["robust_accuracy"] < fooled["robust_accuracy"] - 0.2
    assert "vanishing_gradients" not in square


class Broken(Linear):
    """Logits that are NaN where the picture changed."""

    def __init__(self, clean):
        super().__init__()
        self.clean = clean

    def forward(self, embedded):
        z = super().forward(embedded).logits["label"]
        same = (embedded.x == self.clean).flatten(1).all(1, keepdim=True)
        return Output(z, {"label": torch.where(same, z, z * torch.nan)})


def test_an_attack_that_makes_logits_nan_has_succeeded():
    recipe, x, y = linear()
    recipe.network = Broken(x)
    found = measured(PGDRobustness("linf", 0.1, steps=1, restarts=1), recipe, x, y)
    assert found["clean_accuracy"] == pytest.approx(0.9) and found["robust_accuracy"] == 0
    assert found["robust_loss"] == torch.inf


class Flat(Linear):
    """Three classes, of which the first two are ahead by one constant: cross-entropy has a
    gradient by the third, the margin has none."""

    def forward(self, embedded):
        third = super().forward(embedded).logits["label"][:, :1].tanh()
        z = torch.cat([torch.full_like(third, 5.0), torch.full_like(third, 4.0), third], 1)
        return Output(z, {"label": z})


def test_the_alarm_watches_the_loss_of_the_attack():
    recipe, x, _ = linear()
    recipe.network = Flat()
    y = torch.zeros(len(x), dtype=torch.int64)
    with pytest.warns(UserWarning, match="the loss margin has no gradient for 100%"):
        found = measured(PGDRobustness("linf", 0.1, steps=1, loss="margin"), recipe, x, y)
    assert found["vanishing_gradients"] == 1
    assert measured(PGDRobustness("linf", 0.1, steps=1), recipe, x, y)["vanishing_gradients"] == 0


@pytest.mark.parametrize("make", [FGSMRobustness, PGDRobustness, MIFGSMRobustness])
def test_dlr_with_two_classes_is_refused_before_training(make):
    refused = r"evaluate.attack.loss=dlr: task 'parity' has 2 classes.*at least 3; use margin or ce"
    setup = Setup(tasks={"label": 3, "parity": 2})
    parts = dataclasses.replace(build({}, setup)._parts, probes=[make(loss="dlr")])
    with pytest.raises(UserError, match=refused):
        Recipe(parts)
    Recipe(dataclasses.replace(parts, tasks=parts.tasks[:1], network=Setup().network()))


def test_the_reported_network_is_attacked_through_what_changes_its_logits():
    trained = train(
        {"ema": EMA(decay=0.5), "posthoc_logit_adjustment": PosthocLogitAdjustment(tau=2.0)},
        steps=3,
    )
    recipe = trained.recipe.eval()
    assert (
        recipe.reported() is recipe.teacher.network and recipe.reported(raw=True) is recipe.network
    )
    x, y = (
        torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 0]),
    )
    victim = ReportedVictim(recipe, Embedded(x), {"label": y}, torch.arange(4))
    z = recipe.teacher.network(Embedded(x)).logits["label"] - 2.0 * recipe.statistics.log_prior(
        "label"
    )
    torch.testing.assert_close(victim.objective("ce")(x), F.cross_entropy(z, y, reduction="none"))
    before = {name: value.clone() for name, value in recipe.state_dict().items()}
    measured(PGDRobustness("linf", 0.1, steps=3), recipe, x, y)
    assert all(p.grad is None for p in recipe.teacher.network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in recipe.state_dict().items())


def test_texts_are_attacked_in_their_embeddings():
    setup = Setup(kind="text")
    recipe = build({}, setup).eval()
    data, _ = setup.samples("labeled", 20)
    view = {"ids": data["words"].long(), "mask": data["words"] > 0}
    clean = recipe.predict_logits(view)["label"].argmax(1)
    found = measured(PGDRobustness("l2", 1.0, steps=5), recipe, view, clean)
    assert found["clean_accuracy"] == 1 and found["robust_accuracy"] < 0.9
    assert measured(PGDRobustness("l2", 0.0, steps=5), recipe, view, clean)["robust_accuracy"] == 1


@pytest.mark.parametrize("tasks", [{"label": 3}, {"label": 3, "parity": 2}])
def test_in_a_true_test_loop(tasks):
    setup = Setup(tasks=tasks, norm=True)
    recipe = build({}, setup)
    recipe.probes.append(PGDRobustness("linf", 0.1, steps=2, restarts=2))
    trainer = small_trainer(setup)
    batches = [b["labeled"] for b in setup.batches({"labeled"})]
    trainer.test(recipe, DataLoader(Batches(batches), batch_size=None), verbose=False)
    values = recipe.latest
    assert values["test/clean_accuracy"] == pytest.approx(values["test/accuracy"])
    assert 0 <= values["test/robust_accuracy"] <= values["test/clean_accuracy"]
    assert values["test/robust_loss"] >= values["test/loss"] - 1e-5
    if len(tasks) > 1:
        both = [values[f"test/{task}/robust_accuracy"] for task in tasks]
        assert values["test/robust_accuracy"] == pytest.approx(sum(both) / 2)


def test_points_stay_within_the_threat():
    recipe, x, y = linear()
    for norm in ("linf", "l2"):
        threat = Threat(norm, 0.05)
        victim = ReportedVictim(recipe, Embedded(x), {"label": y}, torch.arange(len(y)))
        for probe in (
            FGSMRobustness(norm, 0.05),
            PGDRobustness(norm, 0.05),
            MIFGSMRobustness(norm, 0.05),
        ):
            delta = probe.attack(victim, threat, victim.draw) - x
            assert (
                float((delta.flatten(1).abs().amax(1) if norm == "linf" else length(delta)).max())
                <= 0.05 + 1e-6
            )


@pytest.mark.parametrize("path", [p for p in FILES if p.stem != "none"], ids=lambda p: p.stem)
def test_files_and_signatures_agree(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    arguments = inspect.signature(get_class(node.pop("_target_"))).parameters
    assert node == {name: a.default for name, a in arguments.items()} and list(node) == list(
        arguments
    )
