from functools import partial
from itertools import pairwise

import pytest
import torch

from foundation.randomness import Randomness, SampleRandomness
from methods.adversarial.attacks.square_attack import share, side, square_attack, window
from methods.adversarial.attacks.threat import Threat
from tests.support.worked_attacks import convolutional, of, pictures


def run(queries, eps=0.1, model=None, rows=6, index=None, watch=None, narrow=False, draw=None):
    model, (x, _) = model or convolutional(), pictures(rows)
    x = x[torch.arange(rows) if index is None else index]
    index = torch.arange(rows) if index is None else index
    y = model(x).argmax(1)
    values = of(model, y, "margin")

    def seen(tried):
        if watch is not None:
            watch.append(tried.clone())
        return values(tried)

    def among(chosen):
        left = of(model, y[chosen], "margin")
        return lambda tried: (watch.append(tried.clone()), left(tried))[1]

    narrowed = {"among": among} if narrow else {}
    draw = draw or SampleRandomness(0, index).draw
    found = square_attack(seen, x, Threat("linf", eps), queries, draw, **narrowed)
    return x, y, model, found


def test_sides_of_the_specification():
    """On 32 × 32 with p = .8: 29, and 20, 14, 10, 7 after 10, 50, 200 and 500 queries."""
    assert [side(query, 0.8, 32, 32) for query in (1, 10, 11, 51, 201, 501)] == [
        29,
        29,
        20,
        14,
        10,
        7,
    ]
    assert side(1, 1.0, 4, 9) == 4
    assert side(9999, 0.8, 8, 8) == 1
    assert share(10_000, 0.8) == pytest.approx(0.8 / 512)


def test_a_window_is_where_it_should_be():
    assert window(torch.tensor([0, 2]), 2, 4).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_it_starts_with_stripes_and_changes_one_square_a_query():
    watch = []
    x, _, _, _ = run(6, eps=0.05, watch=watch)
    inside = (x > 0.05) & (x < 0.95)
    stripes = (watch[0] - x).sign()
    assert torch.equal(
        torch.where(inside, stripes, 0),
        torch.where(inside, stripes[:, :, :1], 0).expand_as(x) * inside,
    )
    assert len(watch) == 6
    for before, after in pairwise(watch):
        # a rejected square is undone, so two tries differ by two squares at most
        assert 0 < int((before != after).any(1).sum()) <= 2 * len(x) * side(1, 0.8, 8, 8) ** 2
    for tried in watch:
        assert float((tried - x).abs().max()) <= 0.05 + 1e-6
        assert float(tried.min()) >= 0 and float(tried.max()) <= 1


def test_more_queries_never_lower_the_margin_and_success_ends_a_sample():
    margins, taken = [], []
    for queries in (1, 10, 100):
        _, y, model, found = run(queries, eps=0.04)
        value = of(model, y, "margin")(found.x)
        assert torch.equal(found.success, value >= 0)
        assert (found.queries[~found.success] == queries).all() and (found.queries <= queries).all()
        margins.append(value)
        taken.append(found)
    for earlier, later in pairwise(taken):
        assert (later.success | ~earlier.success).all()
        # misread once, a sample is left as it was
        assert torch.equal(later.x[earlier.success], earlier.x[earlier.success])
    assert (margins[0] <= margins[1] + 1e-6).all() and (margins[1] <= margins[2] + 1e-6).all()
    assert 0 < int(taken[0].success.sum()) < int(taken[-1].success.sum())


@pytest.mark.parametrize(
    "draw", [None, partial(Randomness(0, 0).draw, rows=6)], ids=["by sample", "by batch"]
)
def test_a_longer_search_begins_as_a_shorter_one(draw):
    """Also over the block of 64 and the change of the square's size, where numbers are drawn
    anew."""
    longest = []
    run(130, eps=0.01, watch=longest, draw=draw)
    for queries in (2, 9, 70, 115):
        watch = []
        run(queries, eps=0.01, watch=watch, draw=draw)
        assert len(watch) == queries and torch.equal(
            torch.stack(watch), torch.stack(longest[:queries])
        )


def test_it_asks_for_no_gradient_and_a_sample_is_attacked_alike_in_any_company():
    model = convolutional()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    *_, whole = run(60, model=model)
    assert not whole.x.requires_grad
    *_, part = run(60, model=model, index=torch.tensor([4, 1]))
    assert torch.equal(whole.x[[4, 1]], part.x) and torch.equal(whole.queries[[4, 1]], part.queries)


def test_radius_zero_changes_nothing():
    x, _, _, found = run(5, eps=0.0)
    assert torch.equal(found.x, x)


def test_without_the_misread_samples_the_search_is_the_same_and_shorter():
    watch, whole = [], run(200, eps=0.04)[-1]
    narrow = run(200, eps=0.04, watch=watch, narrow=True)[-1]
    torch.testing.assert_close(narrow.x, whole.x, atol=0, rtol=0)
    assert torch.equal(narrow.queries, whole.queries) and torch.equal(narrow.success, whole.success)
    assert 0 < int(whole.success.sum()) < len(whole.x) and int((whole.queries == 1).sum()) < len(
        whole.x
    )
    # the first query is of all samples, every further one of those that are not misread yet
    assert sum(len(tried) for tried in watch) == int(whole.queries.sum())


def test_the_search_ends_with_the_last_sample():
    watch = []
    found = run(50, eps=1.0, watch=watch, narrow=True)[-1]
    assert found.success.all() and len(watch) == int(found.queries.max()) < 50
