import pytest
import torch
from torch.nn.functional import normalize

from foundation.errors import UserError
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.xbm import XBM, Memory
from methods.regularization.sam import SAM
from tests.support.harness import train
from tests.support.metric_batches import batch, filled_memory, of, running


def test_the_ring_keeps_the_last_rows():
    memory = Memory(5, 1, 1)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3)
        memory.enqueue(rows[:, None].float(), rows[None])
    assert memory.labels[0].tolist() == [5, 6, 7, 8, 4] and memory.embeddings[:, 0].tolist() == [
        5,
        6,
        7,
        8,
        4,
    ]
    assert int(memory.written) == 9
    memory.enqueue(torch.arange(7.0)[:, None], torch.arange(7)[None])
    assert sorted(memory.labels[0].tolist()) == [2, 3, 4, 5, 6]


def test_before_its_start_and_with_an_empty_memory_it_is_the_plain_loss():
    x, labels = batch(1)
    method = XBM(start=10)
    plain = of(MultiSimilarity(), x, labels)
    for memory, step in ((filled_memory(), 9), (Memory(8, 6, 1).double(), 10)):
        torch.testing.assert_close(
            method.loss(x, labels, "label", running(method, memory, step))[0], plain
        )
    assert method.loss(x, labels, "label", running(method, filled_memory(), 10))[0] > plain


def test_its_start_may_be_a_share_of_the_run():
    x, labels = batch(1)
    method = XBM(start=0.1)
    plain = of(MultiSimilarity(), x, labels)
    before = running(method, filled_memory(), 29, total_steps=300)
    torch.testing.assert_close(method.loss(x, labels, "label", before)[0], plain)
    after = running(method, filled_memory(), 30, total_steps=300)
    assert method.loss(x, labels, "label", after)[0] > plain


def test_triplets_against_the_memory_have_options_of_their_own():
    x, labels = batch(1)
    method = XBM("triplet", {"margin": 0.5, "mining": "semi_hard"}, start=0)
    assert method.wrapped.margin == 0.5
    value = method.loss(x.requires_grad_(), labels, "label", running(method, filled_memory()))[0]
    value.backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


def test_the_contrastive_loss_of_the_paper_meets_the_memory():
    """Σ_P (1 - S) + Σ_N [S - 0.5]+ of the batch against the memory's written rows, over B."""
    x, labels = batch(1)
    memory = filled_memory()
    options = {"negative_margin": 0.5, "power": 1, "distance": "cosine", "reduction": "mean_batch"}
    method = XBM("contrastive", options, start=0)
    written = memory.labels[0] >= 0
    stored = memory.labels[0][written]
    s = normalize(x, dim=1) @ normalize(memory.embeddings[written], dim=1).T
    same = labels[:, None] == stored
    expected = ((1 - s)[same].sum() + (s - 0.5).clamp_min(0)[~same].sum()) / len(x)
    found = method.loss(x, labels, "label", running(method, memory))[1]["xbm_memory"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"margn": 0.1},
            "methods.xbm.options.margn: triplet has no such argument; did you mean 'margin'",
        ),
        (
            {"mining": "distance_weighted"},
            r"methods\.xbm\.options\.mining=distance_weighted: draws negatives from the batch alone",
        ),
        ({"margin": "wide"}, "methods.xbm.options.margin: got 'wide', expected a number"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        XBM("triplet", options)


@pytest.mark.parametrize("others", [{}, {"sam": SAM()}], ids=["alone", "sam"])
def test_a_run_enqueues_every_batch_once_and_after_its_step(others):
    result = train({"xbm": XBM(dim=4, size=64, start=1), **others}, steps=3)
    memory = result.recipe.method_modules["xbm"]
    assert int(memory.written) == 3 * 6
    last = result.recipe.last_step
    assert torch.equal(memory.labels[0, 12:18], last.streams["labeled"].targets["label"])
    assert (memory.labels[0, 18:] == -1).all()
    torch.testing.assert_close(memory.embeddings[:18].norm(dim=1), torch.ones(18))
    assert not memory.embeddings.requires_grad
    shown = [row.get("train/xbm_memory") for row in result.history]
    assert shown[0] is None and all(value > 0 for value in shown[1:])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_separates_the_classes(kind):
    result = train({"xbm": XBM(dim=8, start=5, size=24)}, kind=kind, steps=40, lr=0.05)
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in result.history]
    assert gap[-1] > gap[0] + 0.1
