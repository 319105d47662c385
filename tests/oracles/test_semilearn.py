"""FixMatch and FlexMatch, mask by mask, and their loss, against semilearn (USB).

The package as a whole imports what a laptop does not have (aim, torchaudio, scikit-image), so the
four modules that are compared are loaded without the `__init__` of the packages that they lie in.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from functools import partial
from importlib.machinery import PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.flexmatch import FlexMatch
from methods.semi_supervised.pseudo_label import PseudoLabel
from methods.semi_supervised.targets import make_targets
from tests.support.comparison import same
from tests.support.harness import UNLABELED_SAMPLES, Setup, build, step_with

PACKAGES = ("", ".core", ".core.hooks", ".algorithms", ".algorithms.hooks", ".algorithms.flexmatch")


@pytest.fixture(scope="module")
def semilearn():
    """masking and thresholding hooks, the consistency loss."""
    spec = PathFinder.find_spec("semilearn")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the oracle semilearn is not installed")
    before = set(sys.modules)
    root = spec.submodule_search_locations[0]
    for name in PACKAGES:
        bare(f"semilearn{name}", f"{root}{name.replace('.', '/')}")
    try:
        sys.modules["semilearn.core.hooks"].Hook = module("core.hooks.hook").Hook
        masking = module("algorithms.hooks.masking")
        sys.modules["semilearn.algorithms.hooks"].MaskingHook = masking.MaskingHook
        flexible, losses = (
            module("algorithms.flexmatch.utils"),
            module("core.criterions.consistency"),
        )
        yield SimpleNamespace(
            fixed=masking.FixedThresholdingHook,
            flexible=flexible.FlexMatchThresholdingHook,
            consistency=losses.ConsistencyLoss(),
        )
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "semilearn":
                del sys.modules[name]


def bare(name: str, path: str) -> None:
    """A package whose modules can be imported, and whose own code has not run."""
    package = ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package


def module(name: str) -> Any:
    return importlib.import_module(f"semilearn.{name}")


def predictions(rows: int, classes: int, seed: int) -> torch.Tensor:
    """Some samples and classes are learnt sooner than others."""
    source = torch.Generator().manual_seed(seed)
    sure = 6 * torch.rand(rows, 1, generator=source)
    return sure * (
        torch.randn(rows, classes, generator=source) + torch.linspace(0.8, -0.5, classes)
    )


@pytest.mark.parametrize("tau", [0.0, 0.6, 0.95])
@pytest.mark.parametrize(
    ("method", "names"),
    [
        (partial(FixMatch, align=0), ("unlabeled/weak", "unlabeled/strong")),
        (PseudoLabel, ("unlabeled/weak", "unlabeled/weak")),
    ],
)
def test_fixed_threshold(semilearn, method, names, tau):
    """Value, and gradient by the logits that learn; those that teach have none."""
    z = predictions(32, 5, 0)
    taught = z if method is PseudoLabel else predictions(32, 5, 1)
    q = torch.softmax(z, 1)
    mask = semilearn.fixed().masking(SimpleNamespace(p_cutoff=tau), q, softmax_x_ulb=False)
    made = method(threshold=tau)
    made.key = "it"

    def ours(logits: torch.Tensor) -> torch.Tensor:
        step = step_with({names[0]: z} | {names[1]: logits})
        made.terms(step, context=None)
        assert torch.equal(step.pseudo["label"].mask.float(), mask)
        return step.terms["it"].reduced()

    same(
        ours,
        lambda logits: semilearn.consistency(logits, q.argmax(1), "ce", mask),
        taught,
        tolerance=1e-6,
    )


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("tau", [0.6, 0.9])
def test_flexible_thresholds(semilearn, warmup, tau):
    """Twenty batches of one table each: masks are equal bit for bit, thresholds and beliefs as
    well."""
    classes, source = 4, torch.Generator().manual_seed(1)
    method = FlexMatch(tau, threshold_warmup=warmup, lowest=0.0, align=0)
    recipe = build({"flexmatch": method}, Setup(tasks={"label": classes}))
    memory = recipe.method_modules["flexmatch"]["label"]
    theirs, kept = semilearn.flexible(UNLABELED_SAMPLES, classes, warmup), []
    for batch in range(20):
        index = torch.randperm(UNLABELED_SAMPLES, generator=source)[:16]
        z, strong = predictions(16, classes, 2 * batch), predictions(16, classes, 2 * batch + 1)
        q = torch.softmax(z, 1)
        labels, believed = make_targets(z, harden=True, mask=method.mask("label", recipe))
        mask = theirs.masking(SimpleNamespace(p_cutoff=tau), q, index, softmax_x_ulb=False)
        assert torch.equal(believed.mask.float(), mask)
        loss_of(method, recipe, z, strong, semilearn, mask)
        memory.write(index, labels, where=q.amax(1) >= tau)
        assert torch.equal(memory.table, theirs.selected_label)
        limits = method.mask("label", recipe).keywords["threshold"]
        torch.testing.assert_close(limits, tau * theirs.classwise_acc / (2 - theirs.classwise_acc))
        kept.append(float(mask.mean()))
    assert kept[0] == 1 and 0 < min(kept) < 1 and len(memory.table.unique()) >= classes


def loss_of(
    method: FlexMatch, recipe: Any, z: torch.Tensor, strong: torch.Tensor, semilearn: Any, mask: Any
) -> None:
    def ours(logits: torch.Tensor) -> torch.Tensor:
        step = step_with({"unlabeled/weak": z, "unlabeled/strong": logits})
        method.terms(step, recipe)
        return step.terms["flexmatch"].reduced()

    same(
        ours,
        lambda logits: semilearn.consistency(logits, z.argmax(1), "ce", mask),
        strong,
        tolerance=1e-6,
    )
