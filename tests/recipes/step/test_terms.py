import pytest
import torch

from foundation.distributed import global_sum, world_size
from methods.multi_task.losses import sample_count
from recipes.step import terms
from recipes.step.terms import Term

VALUES = torch.tensor([1.0, 2.0, 3.0, 6.0])


def test_without_a_mask_it_is_the_mean():
    assert float(Term("t", VALUES).reduced()) == 3.0


@pytest.mark.parametrize(("denominator", "expected"), [("samples", 7 / 4), ("confident", 7 / 2)])
def test_denominators(denominator, expected):
    mask = torch.tensor([True, False, False, True])
    assert float(Term("t", VALUES, mask=mask, denominator=denominator).reduced()) == pytest.approx(
        expected
    )


def test_a_soft_mask_weighs():
    mask = torch.tensor([0.5, 1.0, 0.0, 1.0])
    assert float(Term("t", VALUES, mask=mask).reduced()) == pytest.approx(8.5 / 4)
    assert float(Term("t", VALUES, mask=mask, denominator="confident").reduced()) == pytest.approx(
        8.5 / 2.5
    )


def test_counts_are_the_denominator_instead_of_the_mask():
    mask = torch.tensor([True, True, False, False])
    counts = torch.tensor([1.0, 0.5, 0.0, 0.5], requires_grad=True)
    term = Term("t", VALUES, mask=mask, counts=counts, denominator="confident")
    loss = term.reduced()
    assert float(loss) == pytest.approx(3 / 2) and not loss.requires_grad
    assert sample_count(term).item() == 2.0 and sample_count(Term("t", VALUES)) == 1.0


def test_nobody_kept_is_zero_and_less_than_one_kept_divides_by_one():
    assert float(Term("t", VALUES, mask=torch.zeros(4), denominator="confident").reduced()) == 0.0
    mask = torch.tensor([0.25, 0.0, 0.0, 0.0])
    assert float(Term("t", VALUES, mask=mask, denominator="confident").reduced()) == 0.25


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_infinite_and_undefined_losses_under_the_mask_do_no_harm(kind):
    values = torch.tensor([1.0, float("inf"), float("nan"), 3.0], requires_grad=True)
    loss = Term("t", values, mask=torch.tensor([1, 0, 0, 1]).to(kind)).reduced()
    assert float(loss.detach()) == 1.0
    loss.backward()
    assert values.grad.tolist() == [0.25, 0, 0, 0.25]


def test_the_mask_carries_no_gradient():
    mask = torch.tensor([0.5, 1.0, 0.0, 1.0], requires_grad=True)
    values = VALUES.clone().requires_grad_()
    Term("t", values, mask=mask, denominator="confident").reduced().backward()
    assert mask.grad is None
    torch.testing.assert_close(values.grad, mask.detach() / 2.5)


def test_a_scalar_is_taken_as_it_is_and_half_precision_is_reduced_in_float32():
    assert float(Term("t", torch.tensor(2.5), weight=3.0).reduced()) == 2.5
    many = torch.full((4096,), 1.001, dtype=torch.bfloat16)
    assert Term("t", many).reduced().dtype == torch.float32
    assert float(Term("t", many, mask=torch.ones(4096)).reduced()) == pytest.approx(
        float(many[0]), rel=1e-5
    )


def test_on_one_process_a_global_sum_is_a_detached_copy():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    total = global_sum(value)
    assert world_size() == 1 and not total.requires_grad
    total += 1
    assert value.tolist() == [1.0, 2.0]


def test_a_constant_weight_of_one_leaves_the_loss_as_it_is():
    loss = torch.tensor(3.0)
    assert Term("a", loss).weighted(loss) is loss
    assert Term("a", loss, weight=2.0).weighted(loss).item() == 6.0
    assert Term("a", loss, weight=torch.tensor(1.0)).weighted(loss).item() == 3.0


@pytest.mark.parametrize("denominator", ["samples", "confident"])
def test_the_mean_over_two_ranks_is_that_of_the_global_batch(monkeypatch, denominator):
    """Gradients, and so losses, are averaged over ranks."""
    mask = torch.tensor([True, False, False, True, False, False, True, True])
    values = torch.arange(8.0)
    whole = Term("t", values, mask=mask, denominator=denominator).reduced()
    total = mask.sum(dtype=values.dtype)
    monkeypatch.setattr(terms, "world_size", lambda: 2)
    monkeypatch.setattr(terms, "global_sum", lambda value: total)
    ranks = []
    for rows in (slice(0, 4), slice(4, 8)):
        term = Term("t", values[rows], mask=mask[rows], denominator=denominator)
        ranks.append(term.reduced())
    torch.testing.assert_close(torch.stack(ranks).mean(), whole)
