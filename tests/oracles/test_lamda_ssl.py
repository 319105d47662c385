"""Losses, targets and the adversarial direction of semi-supervised methods against LAMDA-SSL.

Its algorithms import what is not needed here (torchtext, torch-geometric) or no longer there (a
private function of scikit-learn), so their files are loaded with their estimators' base classes and
default settings left out. An algorithm is then its `get_loss` and `train`, given the attributes
that these read.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.mean_teacher import MeanTeacher
from methods.semi_supervised.mixmatch import mix
from methods.semi_supervised.pi_model import PiModel
from methods.semi_supervised.pseudo_label import PseudoLabel
from methods.semi_supervised.targets import make_targets, mean_prediction, soft_targets
from methods.semi_supervised.temporal_ensembling import accumulate, bias_corrected
from methods.semi_supervised.uda import UDA, annealing_threshold
from methods.semi_supervised.vat import adversarial_direction
from recipes.step import Embedded
from recipes.step.criterion import kl_divergence, one_hot
from tests.oracles.test_semilearn import predictions
from tests.support.comparison import same
from tests.support.harness import step_with
from tests.support.worked_attacks import convolutional

NAMES = (
    "FixMatch",
    "PseudoLabel",
    "PiModel",
    "MeanTeacher",
    "UDA",
    "MixMatch",
    "VAT",
    "TemporalEnsembling",
)
DONE = {
    "it_total": 10,
    "num_it_total": 10,
    "warmup": 0.5,
    "lambda_u": 1.0,
}  # ramps are at their end


class Anything(ModuleType):
    """A module in which every name is None: default settings that nobody reads."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@pytest.fixture(scope="module")
def lamda() -> Iterator[Any]:
    """The algorithms' classes, and their cross-entropy."""
    spec = importlib.util.find_spec("LAMDA_SSL")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the oracle LAMDA-SSL is not installed")
    folder = f"{spec.submodule_search_locations[0]}/Algorithm"
    left_out: dict[str, ModuleType] = {f"LAMDA_SSL.Config.{name}": Anything(name) for name in NAMES}
    left_out["LAMDA_SSL.Config"] = ModuleType("Config")
    left_out["LAMDA_SSL.Config"].__dict__.update(
        {name: left_out[f"LAMDA_SSL.Config.{name}"] for name in NAMES}
    )
    for base in ("InductiveEstimator", "DeepModelMixin"):
        left_out[f"LAMDA_SSL.Base.{base}"] = module = ModuleType(base)
        setattr(module, base, type(base, (), {}))
    for name, path in (
        ("Algorithm", folder),
        ("Algorithm.Classification", f"{folder}/Classification"),
    ):
        left_out[f"LAMDA_SSL.{name}"] = module = ModuleType(name)
        module.__path__ = [path]
    with patch.dict(sys.modules, left_out):
        found = {
            n: importlib.import_module(f"LAMDA_SSL.Algorithm.Classification.{n}") for n in NAMES
        }
        yield SimpleNamespace(
            **{name: getattr(module, name) for name, module in found.items()}, modules=found
        )


def algorithm(kind: Any, **attributes: Any) -> Any:
    """One of theirs at the end of its ramp, with no more than it is asked for."""
    made = object.__new__(kind)
    made.__dict__.update(
        DONE,
        device="cpu",
        bn_controller=SimpleNamespace(freeze_bn=id, unfreeze_bn=id),
        **attributes,
    )
    return made


# two labeled samples, of which the loss is left out of the comparison
SURE = torch.tensor([[200.0, 0, 0, 0, 0], [0, 200.0, 0, 0, 0]]), torch.tensor([0, 1])


@pytest.mark.parametrize("tau", [0.0, 0.6, 0.95])
def test_fixmatch(lamda, tau):
    peer = algorithm(lamda.FixMatch, threshold=tau, T=1.0)
    weak, strong = predictions(32, 5, 0), predictions(32, 5, 1)
    method = FixMatch(threshold=tau, align=0)
    method.key = "it"

    def ours(logits: Tensor) -> Tensor:
        step = step_with({"unlabeled/weak": weak, "unlabeled/strong": logits})
        method.terms(step, context=None)
        return step.terms["it"].reduced()

    same(ours, lambda logits: peer.get_loss((*SURE, weak, logits)), strong, tolerance=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.6, 0.95])
def test_pseudo_label(lamda, tau):
    peer, method = algorithm(lamda.PseudoLabel, threshold=tau), PseudoLabel(threshold=tau)
    method.key = "it"

    def ours(logits: Tensor) -> Tensor:
        step = step_with({"unlabeled/weak": logits})
        method.terms(step, context=None)
        return step.terms["it"].reduced()

    same(ours, lambda logits: peer.get_loss((*SURE, logits)), predictions(32, 5, 0), tolerance=1e-6)


def consistency(method: Any, **logits: Tensor) -> Tensor:
    method.key = "it"
    step = step_with({name.replace("_", "/", 1): z for name, z in logits.items()})
    method.terms(step, context=None)
    term = step.terms["it"]
    return term.weight * term.reduced()


def test_pi_model(lamda):
    """Their form stops the gradient of the second branch."""
    a, b, peer = predictions(32, 5, 0), predictions(32, 5, 1), algorithm(lamda.PiModel)
    method = PiModel(weight=1.0, label_fraction=False, consistency_on="unlabeled", detach=True)
    same(
        lambda z: consistency(method, unlabeled_weak=z, unlabeled_weak2=b),
        lambda z: peer.get_loss((*SURE, z, b)),
        a,
        tolerance=1e-7,
    )


def test_mean_teacher(lamda):
    """The value. Theirs has no gradient: it is the student's branch that is detached."""
    student, teacher, peer = (
        predictions(32, 5, 0).requires_grad_(),
        predictions(32, 5, 1),
        algorithm(lamda.MeanTeacher),
    )
    method = MeanTeacher(weight=1.0, consistency_on="unlabeled")
    method.key = "it"
    step = step_with({"unlabeled/weak": student, "teacher:unlabeled/weak2": teacher})
    method.terms(step, context=None)
    ours, theirs = step.terms["it"].reduced(), peer.get_loss((*SURE, teacher, student))
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)
    assert ours.requires_grad and not theirs.requires_grad


@pytest.mark.parametrize(("tau", "temperature"), [(0.8, 0.4), (0.0, 1.0), (0.6, 0.9)])
def test_uda(lamda, tau, temperature):
    """As it is published its loss is zero: soft targets are rounded down to integers. With that one
    line mended it is ours but for the entropy of the targets, and its gradient is ours."""
    weak, strong = predictions(32, 5, 0), predictions(32, 5, 1)
    peer = algorithm(lamda.UDA, threshold=tau, T=temperature, tsa_schedule="none")
    assert float(peer.get_loss((*SURE, weak, strong))) == 0
    method = UDA(threshold=tau, temperature=temperature, align=0)
    method.key = "it"
    target, believed = make_targets(weak, temperature=temperature)
    kept = (believed.probabilities.amax(1) > tau).float()
    constant = (kept * entropy(target.log())).mean()

    def ours(logits: Tensor) -> Tensor:
        step = step_with({"unlabeled/weak": weak, "unlabeled/strong": logits})
        method.terms(step, context=None)
        assert torch.equal(step.pseudo["label"].mask.float(), kept)
        return step.terms["it"].reduced() + constant

    def mended(use_hard_labels: bool = True, reduction: str = "mean") -> Any:
        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            log_p = logits.log_softmax(1)
            return (
                -(one_hot(targets, 5) * log_p).sum(1)
                if use_hard_labels
                else -(targets * log_p).sum(1)
            )

        return loss

    with patch.object(lamda.modules["UDA"], "Cross_Entropy", mended):
        same(ours, lambda logits: peer.get_loss((*SURE, weak, logits)), strong, tolerance=1e-6)


@pytest.mark.parametrize("kind", ["linear", "exp", "log"])
def test_annealing_of_uda(lamda, kind):
    """The threshold. Theirs drops samples by their largest probability, not by that of the
    label."""
    for done in (0, 3, 10):
        peer = algorithm(lamda.UDA, tsa_schedule=kind, num_classes=5)
        peer.it_total = done
        assert annealing_threshold(kind, done / 10, 5) == pytest.approx(peer.get_tsa(), rel=1e-12)


def recording(model: Any, seen: list[Tensor]) -> Any:
    def network(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return model(x)

    network.zero_grad = model.zero_grad  # type: ignore[attr-defined]
    return network


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_vat(lamda, iterations):
    """From equal noise: every probing point, the perturbed input, and the loss with the entropy."""
    model, seen = convolutional(), []
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    settings = {"xi": 0.05, "eps": 0.7, "it_vat": iterations, "lambda_entmin": 1.0}
    peer = algorithm(lamda.VAT, _network=recording(model, seen), **settings)
    torch.manual_seed(4)
    result = peer.train(x[:2], SURE[1], x)
    torch.manual_seed(4)
    noise = torch.empty_like(x).normal_()
    q, probed = soft_targets(model(x)), []

    def divergence(r: Tensor) -> Tensor:
        probed.append((x + r).detach())
        return kl_divergence(q, model(x + r))

    direction = adversarial_direction(divergence, noise, torch.full((6, 1, 1, 1), 0.05), iterations)
    ours = [*probed, x + 0.7 * direction]
    assert len(ours) == iterations + 1
    for mine, theirs in zip(ours, seen[2:], strict=True):
        # directions are of length one, a small gradient divided by its norm
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    value = kl_divergence(q, model(ours[-1])).mean() + entropy(model(x)).mean()
    supervised = torch.nn.functional.cross_entropy(model(x[:2]), SURE[1])
    torch.testing.assert_close(supervised + value, peer.get_loss(result), atol=1e-5, rtol=1e-5)


def test_table_of_temporal_ensembling(lamda):
    """Averages and corrected targets over five passes; what theirs keeps are logits, so it is given
    probabilities."""
    peer = algorithm(lamda.TemporalEnsembling, ema_weight=0.6, ema_pslab=torch.zeros(8, 4))
    average, visits = torch.zeros(8, 4), torch.zeros(8)
    for epoch in range(5):
        p = predictions(8, 4, epoch).softmax(1)
        peer.epoch_pslab, peer._epoch = p.clone(), epoch
        peer.update_ema_predictions()
        average, visits = accumulate(average, p, 0.6), visits + 1
        torch.testing.assert_close(average, peer.ema_pslab)
        torch.testing.assert_close(bias_corrected(average, visits, 0.6), peer.epoch_pslab)
        torch.testing.assert_close(peer.epoch_pslab.sum(1), torch.ones(8))


def test_guesses_and_mixing_of_mixmatch(lamda):
    """Outputs for the mixed pool and its targets, at a share above one half: theirs does not take
    the larger of λ and 1 - λ. Its losses round soft targets down and take a softmax twice, so they
    are not compared."""
    model, share, temperature = convolutional(), 0.7, 0.5
    source = torch.Generator().manual_seed(3)
    x, first, second = (torch.rand(4, 3, 8, 8, generator=source) for _ in range(3))
    y = torch.tensor([0, 3, 1, 4])
    peer = algorithm(lamda.MixMatch, _network=model, T=temperature, alpha=0.75, num_classes=5)
    torch.manual_seed(6)
    with patch.object(np.random, "beta", lambda a, b: share), torch.no_grad():
        labeled, labels, unlabeled, guesses = peer.train(x, y, (first, second))
    torch.manual_seed(6)
    partner = torch.randperm(12)
    guess = make_targets(
        mean_prediction([model(first), model(second)]), temperature=temperature
    ).value
    pool = Embedded(torch.cat([x, first, second]))
    targets = {"label": torch.cat([one_hot(y, 5), guess, guess])}
    mixed, wanted = mix(pool, targets, partner, torch.full((12,), share))
    torch.testing.assert_close(wanted["label"], torch.cat([labels, guesses]), atol=1e-6, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            model(mixed.x), torch.cat([labeled, unlabeled]), atol=1e-5, rtol=1e-5
        )
