from functools import partial

import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import Randomness
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.pseudo_label import PseudoLabel
from methods.semi_supervised.targets import make_targets
from recipes.step import Embedded, Output, Stream
from recipes.step.terms import Term
from tests.support.harness import (
    Setup,
    SmallNetwork,
    build,
    fit,
    noisy_view,
    step_with,
    train,
    values_differ,
)

# pseudo-labels as they are predicted; alignment has a file of its own
paper = partial(FixMatch, align=0)
WEAK = torch.tensor([[4.0, 0, 0], [2.0, 0, 0]])
STRONG = torch.tensor([[1.0, 0, 0], [0.0, 1, 0]])


def term_of(method: FixMatch, weak: torch.Tensor, strong: torch.Tensor, **step) -> Term:
    method.key = "fixmatch"
    at = step_with({"unlabeled/weak": weak, "unlabeled/strong": strong}, **step)
    method.terms(at, context=None)
    return at.terms["fixmatch"]


def test_worked_example():
    q = make_targets(WEAK, mask=paper().mask("label", None)).pseudo
    torch.testing.assert_close(
        q.probabilities.amax(1), torch.tensor([0.964663, 0.786986]), atol=1e-6, rtol=0
    )
    assert q.mask.tolist() == [1, 0] and q.labels.tolist() == [0, 0]
    values = term_of(paper(), WEAK, STRONG).values
    torch.testing.assert_close(values, torch.tensor([0.551445, 1.551445]), atol=1e-6, rtol=0)
    assert float(term_of(paper(), WEAK, STRONG).reduced()) == pytest.approx(0.275722, abs=1e-6)
    assert float(term_of(paper(threshold=0.0), WEAK, STRONG).reduced()) == pytest.approx(
        1.051445, abs=1e-6
    )


def test_kept_reduction_divides_by_the_confident_samples():
    assert float(
        term_of(paper(mask_reduction="confident"), WEAK, STRONG).reduced()
    ) == pytest.approx(0.551445, abs=1e-6)
    nobody = term_of(paper(mask_reduction="confident", threshold=1.1), WEAK, STRONG)
    assert float(nobody.reduced()) == 0.0


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
def test_equals_a_composition_of_torch(threshold):
    source = torch.Generator().manual_seed(1)
    weak, strong = (4 * torch.randn(32, 6, generator=source) for _ in range(2))
    best, label = torch.softmax(weak, 1).max(1)
    expected = (F.cross_entropy(strong, label, reduction="none") * (best >= threshold)).sum() / 32
    torch.testing.assert_close(
        term_of(paper(threshold=threshold), weak, strong).reduced(), expected
    )


def test_no_gradient_reaches_the_weak_logits():
    weak, strong = WEAK.clone().requires_grad_(), STRONG.clone().requires_grad_()
    term_of(paper(), weak, strong).reduced().backward()
    assert weak.grad is None
    assert strong.grad[0].abs().sum() > 0
    assert strong.grad[1].abs().sum() == 0


def test_warmup_leaves_the_weight_at_zero_until_its_share_of_the_run():
    method = paper(warmup=0.3, weight=2.0)
    weights = [term_of(method, WEAK, STRONG, progress=(t, 10)).weight for t in range(6)]
    assert weights == [0, 0, 0, 2, 2, 2]


def test_labels_come_from_raw_logits_and_the_loss_from_adjusted_ones():
    shift = torch.tensor([0.0, 10.0, 0.0])

    def adjust(step, z, target, task, role):
        assert role == "pseudo"
        return z + shift

    term = term_of(paper(threshold=0.0), WEAK, STRONG, adjust=adjust)
    expected = F.cross_entropy(STRONG + shift, torch.tensor([0, 0]), reduction="none")
    torch.testing.assert_close(term.values, expected)


class ByRows(SmallNetwork):
    """Forwards six rows at a time: adding inputs then leaves the arithmetic of the others as it
    was, bit for bit."""

    def forward(self, embedded: Embedded) -> Output:
        masks = (
            (None,) * (len(embedded.x) // 6) if embedded.mask is None else embedded.mask.split(6)
        )
        parts = [
            super(ByRows, self).forward(Embedded(*pair))
            for pair in zip(embedded.x.split(6), masks, strict=True)
        ]
        features = torch.cat([part.features for part in parts])
        return Output(
            features, {t: torch.cat([part.logits[t] for part in parts]) for t in self.heads}
        )


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("off", [{"threshold": 1.1}, {"threshold": 0.0, "weight": 0.0}])
def test_an_idle_fixmatch_is_supervised_training_bit_for_bit(kind, off):
    setup = Setup(kind=kind, steps=5)

    def run(methods):
        torch.manual_seed(3)
        return fit(build(methods, setup, ByRows(kind, setup.tasks)), setup)

    plain, idle = run({}), run({"fixmatch": paper(**off)})
    assert plain.losses == idle.losses
    assert values_differ(plain.parameters, idle.parameters) == []
    active = run({"fixmatch": paper(threshold=0.0)})
    assert values_differ(plain.parameters, active.parameters) != []


def test_an_idle_fixmatch_is_supervised_training_in_one_forward():
    plain, idle = train(steps=5), train({"fixmatch": paper(threshold=1.1)}, steps=5)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(idle.parameters[name], value, atol=1e-6, rtol=0)


def test_strong_as_weak_is_pseudo_label():
    def weak_only(stream, view, randomness):
        return noisy_view(stream, view.replace("strong", "weak"), randomness)

    a = train({"fixmatch": paper(threshold=0.36)}, steps=4, view=weak_only)
    b = train({"pseudo_label": PseudoLabel(threshold=0.36, ramp_end=0.0)}, steps=4, view=weak_only)
    first, second = (
        [row[f"train/{key}"] for row in x.history]
        for x, key in ((a, "fixmatch"), (b, "pseudo_label"))
    )
    assert max(first) > 0
    assert first == pytest.approx(second, abs=1e-6)
    for name, value in a.parameters.items():
        torch.testing.assert_close(b.parameters[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("norm", [False, True])
@torch.no_grad()
def test_first_step_equals_forwards_by_hand(kind, norm):
    """One concatenated forward with batch norm, and without it the same as three separate ones."""
    setup = Setup(kind=kind, norm=norm, steps=1)
    network, batch = setup.network(), setup.batches({"labeled", "unlabeled"})[0]
    streams = {name: Stream(name, **batch[name]) for name in ("labeled", "unlabeled")}
    asked = (("labeled", "weak"), ("unlabeled", "weak"), ("unlabeled", "strong"))
    parts = [
        network.embed(noisy_view(streams[name], view, Randomness(0, 0))) for name, view in asked
    ]
    if norm:
        x, masks = torch.cat([p.x for p in parts]), [p.mask for p in parts]
        joint = Embedded(x, None if kind == "image" else torch.cat(masks))
        labeled, weak, strong = network(joint).logits["label"].split([6, 12, 12])
    else:
        labeled, weak, strong = (network(part).logits["label"] for part in parts)
    best, guess = torch.softmax(weak, 1).max(1)
    threshold = float(best.sort().values[5:7].mean())
    kept = best >= threshold
    assert 0 < int(kept.sum()) < 12
    unsupervised = float((F.cross_entropy(strong, guess, reduction="none") * kept).mean())
    supervised = float(F.cross_entropy(labeled, batch["labeled"]["targets"]["label"]))
    truth = batch["unlabeled"]["targets"]["label"]
    with torch.enable_grad():
        result = train({"fixmatch": paper(threshold, weight=0.7)}, kind=kind, norm=norm, steps=1)
    expected = {
        "supervised": supervised,
        "fixmatch": unsupervised,
        "loss": supervised + 0.7 * unsupervised,
        "mask_rate": float(kept.float().mean()),
        "confidence": float(best.mean()),
        "pseudo_accuracy": float((guess == truth)[kept].float().mean()),
        "lr": 0.1,
    }
    assert result.history[0] == pytest.approx(
        {f"train/{name}": value for name, value in expected.items()}, abs=1e-6
    )
