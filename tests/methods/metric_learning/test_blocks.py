"""Pairs of a batch, their measures, and that a loss is the same in however many blocks it is
computed."""

import pytest
import torch

from benchmarks.contest import peak_bytes
from foundation import devices
from methods.metric_learning import blocks
from methods.metric_learning.blocks import Blocks
from methods.metric_learning.lifted_structure import LiftedStructure
from methods.metric_learning.log_sums import log_one_plus_sum_exp, log_sum_exp
from methods.metric_learning.measures import (
    MASKED,
    Cosine,
    CosineDistance,
    Distance,
    SquaredDistance,
)
from methods.metric_learning.members import Sides
from methods.metric_learning.metric import pair_scores
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.triplet import Triplet
from tests.support.comparison import value_and_gradients
from tests.support.metric_batches import X, Y, batch, of, proxy_anchor_loss
from tests.support.metric_losses import IN_BLOCKS

LOSSES = {
    **{
        f"triplet {mining}": Triplet(1.0, mining)
        for mining in ("all", "batch_hard", "semi_hard", "semi_hard_all")
    },
    "triplet unsquared": Triplet(1.0, squared=False),
    "multi_similarity": MultiSimilarity(),
    **{
        f"lifted {variant}": LiftedStructure(variant=variant)
        for variant in ("smooth", "hard", "generalized")
    },
    **IN_BLOCKS,
}


def block_of(labels, references=None, x=None):
    x = torch.randn(len(labels), 3) if x is None else x
    others = None if references is None else torch.randn(len(references), 3)
    return Blocks(Cosine(), x, others, Sides.of(labels, references)).block(slice(0, len(labels)))


def masks(block):
    """positive, negative: bool [b, R]."""
    positive = torch.zeros(block.negative.shape, dtype=torch.bool)
    for row, (index, valid) in enumerate(zip(block.positive_index, block.valid, strict=True)):
        positive[row, index[valid]] = True
    return positive, block.negative > -MASKED / 2


@pytest.fixture(params=[True, False], ids=["looked at", "not to be waited for"])
def readable(request, monkeypatch):
    monkeypatch.setattr(devices, "readable", lambda tensor: request.param)


# -- who is a pair ---------------------------------------------------------------------------------
def test_counts_of_the_fixture(readable):
    block = block_of(Y, x=X)
    positive, negative = masks(block)
    assert (int(positive.sum()), int(negative.sum())) == (8, 22)
    assert int((block.valid.sum(1) * block.negative_count).sum()) == 26


def test_a_missing_label_takes_part_in_no_pair(readable):
    block = block_of(torch.tensor([0, -1, -1, 0]))
    positive, negative = masks(block)
    assert positive.nonzero().tolist() == [[0, 3], [3, 0]]
    assert not negative.any() and block.negative_count.tolist() == [0, 0, 0, 0]
    assert block_of(torch.tensor([0, -1, 1, 0])).negative_count.tolist() == [1, 0, 2, 1]


def test_against_a_memory_no_position_is_self(readable):
    positive, negative = masks(block_of(torch.tensor([0, 1]), torch.tensor([0, 1, -1])))
    assert positive.tolist() == [[True, False, False], [False, True, False]]
    assert negative.tolist() == [[False, True, False], [True, False, False]]


def test_means_of_the_fixture():
    x, labels = batch(1)
    labels[::4] = -1
    cosine = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(x, dim=1).T
    same, known = labels[:, None] == labels, labels >= 0
    both = known[:, None] & known
    scores = pair_scores(x, labels)
    for name, mask in (("positive", same & ~torch.eye(len(x)).bool()), ("negative", ~same)):
        torch.testing.assert_close(scores[f"{name}_cosine"], cosine[mask & both].mean())
    assert pair_scores(x, torch.full_like(labels, -1)) == {
        "positive_cosine": 0,
        "negative_cosine": 0,
    }


# -- measures --------------------------------------------------------------------------------------
def matrix_of(measure, x):
    x, references, lengths = measure.prepare(x, None)
    return measure.matrix(
        x, references, slice(0, len(x)), lengths, torch.empty(len(x), len(x), dtype=x.dtype)
    )


def test_duplicates_have_a_distance_and_a_gradient_of_zero():
    x = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    value = of(Triplet(0.0, "batch_hard", squared=False), x[[0, 1]], torch.tensor([0, 0]))
    value.backward()
    assert matrix_of(Distance(), x.detach())[0, 1] == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_near_points_far_from_the_origin_keep_their_distance():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = (1e-2 * x + 50).float()
    expected = (far.double()[:, None] - far.double()).square().sum(2)
    torch.testing.assert_close(
        matrix_of(SquaredDistance(), far).double(), expected, rtol=1e-4, atol=1e-9
    )


def number(measure, x, references):
    """[B, R] by autograd."""
    if isinstance(measure, Cosine):
        cosine = (
            torch.nn.functional.normalize(x, dim=1)
            @ torch.nn.functional.normalize(references, dim=1).T
        )
        return 1 - cosine if isinstance(measure, CosineDistance) else cosine
    squared = (x[:, None] - references).square().sum(2)
    return squared.clamp_min(1e-30).sqrt() if isinstance(measure, Distance) else squared


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "measure",
    [Cosine(), CosineDistance(), SquaredDistance(), Distance()],
    ids=lambda m: type(m).__name__,
)
def test_gradients_are_those_of_autograd_entry_by_entry_and_by_products(measure, apart):
    x, references = batch(1)[0], batch(2, rows=9)[0]
    index = torch.stack([torch.randperm(9)[:2] for _ in range(4)])
    slope = torch.zeros(4, 9, dtype=x.dtype).scatter_(1, index, torch.randn(4, 2, dtype=x.dtype))
    rows = slice(2, 6)
    leaves = [v.clone().requires_grad_() for v in (x, references)]
    whole = number(measure, *leaves)
    expected = torch.autograd.grad((whole[rows] * slope).sum(), leaves)
    *sides, lengths = measure.prepare(x, references)
    kept = measure.matrix(*sides, rows, lengths, torch.empty(4, 9, dtype=x.dtype))
    torch.testing.assert_close(kept, whole[rows].detach())
    into = [torch.zeros_like(x), torch.zeros_like(references)]
    measure.add_gradients(*sides, rows, measure.through_root(kept, slope.clone(), apart), into)
    anchors = torch.arange(2, 6)[:, None].expand(4, 2).flatten()
    entries = measure.through_root(kept.gather(1, index), slope.gather(1, index), apart).flatten()
    single = [
        measure.entry_gradient(*sides, anchors, index.flatten(), entries),
        measure.entry_gradient(*sides[::-1], index.flatten(), anchors, entries),
    ]
    for found in (into, single):
        restored = [measure.through_prepare(*of) for of in zip(sides, lengths, found, strict=True)]
        torch.testing.assert_close(tuple(restored), expected)


@pytest.mark.parametrize(
    "measure",
    [Cosine(), CosineDistance(), SquaredDistance(), Distance()],
    ids=lambda m: type(m).__name__,
)
def test_gradients_of_a_batch_that_is_both_sides_are_those_of_autograd(measure):
    x, leaf = batch(1, rows=8)[0], batch(1, rows=8)[0].requires_grad_()
    slope = torch.randn(8, 8, dtype=x.dtype).fill_diagonal_(0)
    (expected,) = torch.autograd.grad((number(measure, leaf, leaf) * slope).sum(), leaf)
    side, _, lengths = measure.prepare(x, None)
    kept = measure.matrix(side, side, slice(0, 8), lengths, torch.empty_like(slope))
    inner = measure.through_root(kept, slope)
    found = measure.symmetric_gradient(side, inner + inner.T)
    torch.testing.assert_close(measure.through_prepare(side, lengths[0], found), expected)


# -- sums of exponentials --------------------------------------------------------------------------
def test_sums_over_nothing_are_finite_and_have_no_slope():
    z = torch.tensor([[1.0, -MASKED, 3.0], [-MASKED, -MASKED, -MASKED]])
    one, slope_of_one = log_one_plus_sum_exp(z.clone())
    plain, slope = log_sum_exp(z.clone())
    kept = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(
        one, torch.stack([kept.exp().sum().log1p(), torch.zeros(())])[:, None]
    )
    torch.testing.assert_close(plain[0, 0], kept.exp().sum().log())
    torch.testing.assert_close(slope[0, [0, 2]], kept.softmax(0))
    assert plain[1] < -1000 and slope.isfinite().all() and (slope_of_one[1] == 0).all()


# -- blocks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_same_in_many_blocks(name, monkeypatch, readable):
    """However many there are, whether derivatives are kept whole, whether entries and positives
    come one by one."""
    x, labels = batch(3)
    labels[::7] = -1
    whole = value_and_gradients(lambda z: of(LOSSES[name], z, labels), x)
    for setting in (
        {"BLOCK": {"cpu": 3 * len(x)}},
        {"WHOLE": {"cpu": 0}},
        {"FEW_ENTRIES": 0},
        {"FEW_ENTRIES": 10**9, "FEW_POSITIVES": 0},
    ):
        for key, value in setting.items():
            monkeypatch.setattr(blocks, key, value)
        torch.testing.assert_close(
            value_and_gradients(lambda z: of(LOSSES[name], z, labels), x), whole
        )


@pytest.fixture
def poisoned():
    """Memory that is asked for and not written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_without_a_slope_leave_nothing_of_what_memory_held(name, monkeypatch, poisoned):
    """The first anchors are of a class that is close together, opposite to all others."""
    x, labels = batch(3)
    x[:6], labels[:6] = -50.0, int(labels.max()) + 1
    x[6:] += 5.0
    whole = value_and_gradients(lambda z: of(LOSSES[name], z, labels), x)
    assert all(part.isfinite().all() for part in whole) and whole[1].any()
    for cells in (1, 3):
        monkeypatch.setattr(blocks, "BLOCK", {"cpu": cells * len(x)})
        torch.testing.assert_close(
            value_and_gradients(lambda z: of(LOSSES[name], z, labels), x), whole
        )


def test_proxies_are_the_same_in_many_blocks(monkeypatch, readable):
    x, labels = batch(3)
    proxies = batch(4, rows=7)[0]
    whole = value_and_gradients(lambda z, p: proxy_anchor_loss(z, labels, p), x, proxies)
    monkeypatch.setattr(blocks, "BLOCK", {"cpu": 2 * len(x)})
    found = value_and_gradients(lambda z, p: proxy_anchor_loss(z, labels, p), x, proxies)
    torch.testing.assert_close(found, whole)


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_less_than_one_matrix_of_all_pairs(name):
    x, labels = torch.randn(2048, 16, requires_grad=True), torch.arange(2048) // 4
    matrix = 2048 * 2048 * 4
    assert peak_bytes(lambda: of(LOSSES[name], x, labels).backward()) < 0.75 * matrix


def test_without_gradient_none_is_made():
    x, labels = batch(3)
    with torch.no_grad():
        assert not of(Triplet(), x.requires_grad_(), labels).requires_grad


def test_second_derivatives_are_refused_not_wrong():
    x, labels = batch(3)
    value = of(Triplet(), x.requires_grad_(), labels)
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        torch.autograd.grad(value, x, create_graph=True)
