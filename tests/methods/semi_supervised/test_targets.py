import pytest
import torch
import torch.nn.functional as F

from methods.semi_supervised.targets import (
    aligned,
    confident,
    make_targets,
    mean_prediction,
    scores_of,
    sharpen,
    soft_targets,
)


def random_logits(seed: int = 0, rows: int = 16, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def test_sharpening_worked_example():
    q = torch.tensor([[0.5, 0.3, 0.2]])
    expected = torch.tensor([[0.657895, 0.236842, 0.105263]])
    torch.testing.assert_close(sharpen(q.log(), 0.5), expected, atol=1e-6, rtol=0)


def test_sharpening_is_the_normalised_power():
    z, T = random_logits(), 0.4
    power = torch.softmax(z.double(), 1) ** (1 / T)
    expected = power / power.sum(1, keepdim=True)
    torch.testing.assert_close(sharpen(z, T).double(), expected, atol=1e-6, rtol=0)


def test_limits_of_sharpening():
    z = random_logits()
    torch.testing.assert_close(sharpen(z, 1.0), torch.softmax(z, 1))
    torch.testing.assert_close(
        sharpen(z, 1e-3), F.one_hot(z.argmax(1), 5).float(), atol=1e-6, rtol=0
    )


def test_targets_carry_no_gradient_and_are_float32():
    z = random_logits().bfloat16().requires_grad_()
    for target in (soft_targets(z), sharpen(z, 0.5)):
        assert not target.requires_grad
        assert target.dtype == torch.float32


def test_confidence_keeps_ties_and_nothing_above_one():
    q = torch.tensor([[0.95, 0.05], [0.94, 0.06], [1.0, 0.0]])
    threshold = float(q[0, 0])
    assert confident(*q.max(1), threshold).tolist() == [1, 0, 1]
    assert confident(*q.max(1), 1.0001).tolist() == [0, 0, 0]
    assert confident(*q.max(1), 0.0).tolist() == [1, 1, 1]


def test_a_threshold_a_class_is_that_of_the_best_class():
    q = torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.5, 0.5]])
    assert confident(*q.max(1), torch.tensor([0.7, 0.6])).tolist() == [0, 1, 0]
    assert confident(*q.max(1), torch.tensor([0.6, 0.6]), strict=True).tolist() == [0, 0, 0]


def test_alignment_worked_example():
    q, seen = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([0.5, 0.3, 0.2])
    expected = torch.tensor([[0.444445, 0.370370, 0.185185]])
    torch.testing.assert_close(
        aligned(q, torch.full((3,), 1 / 3), seen), expected, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(aligned(q, seen, seen), q)


def test_probabilities_are_a_source_as_well():
    q = torch.softmax(random_logits(), 1)
    torch.testing.assert_close(soft_targets(scores_of(q)), q)
    torch.testing.assert_close(
        make_targets(scores_of(q), temperature=0.5).value, sharpen(q.log(), 0.5)
    )
    assert torch.isfinite(scores_of(torch.tensor([[1.0, 0.0]]))).all()


def test_the_mean_of_views_is_of_probabilities_not_of_logits():
    a, b = random_logits(1), random_logits(2)
    expected = (torch.softmax(a, 1) + torch.softmax(b, 1)) / 2
    torch.testing.assert_close(soft_targets(mean_prediction([a, b])), expected)


def test_an_empty_pipeline_passes_the_prediction_and_keeps_everybody():
    z = random_logits()
    made = make_targets(z)
    assert torch.equal(made.value, torch.softmax(z, 1)) and torch.equal(
        made.pseudo.probabilities, made.value
    )
    assert made.pseudo.mask.tolist() == [1.0] * 16
    assert torch.equal(made.pseudo.labels, z.argmax(1))


def test_slots_act_in_their_order():
    """Alignment changes the label, the mask looks at aligned and not at sharpened probabilities."""
    q, wanted, seen = torch.tensor([[0.6, 0.4]]), torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2])
    asked = []

    def mask(best, label):
        asked.append((best, label))
        return torch.zeros(len(best))

    made = make_targets(
        q.log(), align=lambda p: aligned(p, wanted, seen), temperature=0.5, mask=mask
    )
    after = torch.tensor([[0.6 / 0.8, 0.4 / 0.2]])
    after = after / after.sum()
    torch.testing.assert_close(made.pseudo.probabilities, after, atol=1e-5, rtol=0)
    ((best, label),) = asked
    assert torch.equal(best, made.pseudo.probabilities.amax(1)) and label.tolist() == [1]
    assert made.pseudo.confidence is best
    assert made.pseudo.labels.tolist() == [1] and made.pseudo.mask.tolist() == [0]
    torch.testing.assert_close(made.value, after**2 / (after**2).sum(), atol=1e-5, rtol=0)
    assert make_targets(q.log(), harden=True).value.tolist() == [0]


@pytest.mark.parametrize("harden", [False, True])
def test_nothing_of_the_pipeline_carries_gradient(harden):
    z = random_logits().requires_grad_()
    made = make_targets(
        z, align=lambda q: q, temperature=0.5, harden=harden, mask=lambda best, label: best
    )
    assert not any(t.requires_grad for t in (made.value, *vars(made.pseudo).values()))
