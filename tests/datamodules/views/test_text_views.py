"""Text views: formulas, expected numbers of edits, identity at zero, determinism, equality on two
ranks."""

import pytest
import torch

from datamodules.text.tokenizer import wrap
from datamodules.views.text import Chain, EdaLite, Raw, TfidfReplace, TokenCutoff, Weak
from datamodules.views.text.eda import swap_words
from datamodules.views.text.tfidf import (
    corpus_statistics,
    replacement_distribution,
    replacement_probability,
)
from datamodules.views.text.view import drop_words
from foundation.errors import UserError
from tests.support.text_sets import TEXTS, byte_level, draws, source

VIEWS = {
    "raw": Raw,
    "weak": lambda: Weak(0.2),
    "eda": lambda: EdaLite(0.3),
    "tfidf": lambda: TfidfReplace(0.8),
    "cutoff": lambda: TokenCutoff(0.3),
    "span": lambda: TokenCutoff(0.3, "span"),
    "mask": lambda: TokenCutoff(0.3, "mask"),
    "chain": lambda: Chain([TfidfReplace(0.5), EdaLite(0.2), TokenCutoff(0.2)]),
}


def fitted(view, made):
    view.fit(made)
    return view


def see(view, made, indices=None, **place):
    indices = torch.arange(len(made)) if indices is None else indices
    return view(made.fetch(indices), draws(len(indices), **place))


def same_under_mask(one, two):
    width = max(one["ids"].shape[1], two["ids"].shape[1])
    pad = [torch.nn.functional.pad(v["mask"], (0, width - v["mask"].shape[1])) for v in (one, two)]
    ids = [torch.nn.functional.pad(v["ids"], (0, width - v["ids"].shape[1])) for v in (one, two)]
    return torch.equal(*pad) and torch.equal(ids[0][pad[0]], ids[1][pad[1]])


@pytest.mark.parametrize("coding", ["wordpiece", "byte_level"])
@pytest.mark.parametrize("name", VIEWS)
def test_two_ranks_see_what_one_sees(name, coding):
    made = source(tokenizer=byte_level(TEXTS) if coding == "byte_level" else None, max_length=40)
    view = fitted(VIEWS[name](), made)
    # The halves differ in their longest text, so each rank trims its batch differently.
    order = torch.tensor([3, 4, 1, 2, 5, 0, 6, 7])
    for step in range(5):
        whole = see(view, made, order, step=step)
        halves = [
            see(view, made, order[4 * r : 4 * r + 4], step=step, rank=r, world=2) for r in (0, 1)
        ]
        for rank, half in enumerate(halves):
            rows = slice(4 * rank, 4 * rank + 4)
            assert same_under_mask(half, {key: value[rows] for key, value in whole.items()})


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "raw"])
def test_views_are_deterministic_and_differ_between_steps(name):
    made = source()
    view = fitted(VIEWS[name](), made)
    assert same_under_mask(see(view, made, step=3), see(view, made, step=3))
    assert not same_under_mask(see(view, made, step=3), see(view, made, step=4))


@pytest.mark.parametrize("view", [Weak(0), EdaLite(0), TfidfReplace(0), TokenCutoff(0), Chain([])])
def test_zero_is_the_identity(view):
    made = source()
    assert same_under_mask(see(fitted(view, made), made), see(fitted(Raw(), made), made))


@pytest.mark.parametrize("name", VIEWS)
def test_special_tokens_stay(name):
    made = source()
    view = fitted(VIEWS[name](), made)
    tokenizer = made.codec.tokenizer
    for step in range(10):
        seen = see(view, made, step=step)
        assert (seen["ids"][:, 0] == tokenizer.prefix[0]).all() and seen["mask"][:, 0].all()
        special = torch.isin(seen["ids"], torch.tensor([*tokenizer.prefix, *tokenizer.suffix]))
        assert torch.equal(seen["content"], seen["mask"] & ~special)
        for row in range(len(made)):
            ids = seen["ids"][row][seen["mask"][row]].tolist()
            assert ids[-1] == tokenizer.suffix[0]
            assert ids.count(tokenizer.prefix[0]) == 1 == ids.count(tokenizer.suffix[0])
            assert len(ids) >= 3  # something of the text is always left


@pytest.mark.parametrize("name", VIEWS)
def test_empty_text_survives(name):
    made = source(["", "one two three four five"])
    view = fitted(VIEWS[name](), made)
    assert see(view, made)["mask"][0].sum() == 2


def many(length, rows=4000):
    return torch.arange(1, length + 1).expand(rows, length).clone()


def test_dropout_leaves_out_the_expected_share_and_keeps_order():
    words = drop_words(
        many(20), torch.rand(4000, 20, generator=torch.Generator().manual_seed(0)), 0.1
    )
    left = (words > 0).sum(1)
    # 4000 × 20 coins: standard deviation of the mean count 0.021
    assert left.double().mean() == pytest.approx(18, abs=0.1)
    assert ((words[:, 1:] > words[:, :-1]) | (words[:, 1:] == 0)).all()


def test_dropout_keeps_one_word_each_equally_often():
    words = drop_words(
        many(4), torch.rand(4000, 4, generator=torch.Generator().manual_seed(0)), 0.999
    )
    single = words[(words > 0).sum(1) == 1][:, 0]
    assert (words > 0).any(1).all() and len(single) > 3900
    assert torch.bincount(single, minlength=5)[1:].min() > 900


def test_swaps_exchange_two_different_words():
    drawn = torch.rand(4000, 1, 2, generator=torch.Generator().manual_seed(0))
    words = many(5)
    swapped = swap_words(words, drawn, torch.full((4000,), 5), torch.ones(4000, dtype=torch.long))
    assert ((swapped != words).sum(1) == 2).all()
    pairs = (swapped != words).double() @ (2.0 ** torch.arange(5, dtype=torch.float64))
    assert torch.unique(pairs, return_counts=True)[1].min() > 320  # ten pairs, 400 each expected


def test_swaps_follow_each_texts_own_length_and_count():
    drawn = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[1, 2, 3, 0], [1, 0, 0, 0], [1, 2, 3, 4]])
    swapped = swap_words(words, drawn, torch.tensor([3, 1, 4]), torch.tensor([1, 4, 0]))
    assert (swapped[0] != words[0]).sum() == 2 and swapped[0, 3] == 0
    assert torch.equal(swapped[1:], words[1:])


def test_eda_counts():
    view = EdaLite(0.1)
    assert [view.swaps(length) for length in (1, 9, 19, 20, 57)] == [1, 1, 1, 2, 5]
    made = source([" ".join(f"word{i}" for i in range(50))] * 400, max_length=256)
    fitted(view, made)
    data = made.fetch(torch.arange(400))
    edited = view.edit(data["words"].long(), draws(400))
    n = (data["words"][0] > 0).sum().item()
    assert (edited > 0).sum(1).double().mean() == pytest.approx(0.9 * n, abs=0.5)


def test_replacement_probability_worked_numbers():
    scores, real = torch.tensor([[0.5, 0.2, 0.1, 0.2, 9.0]]), torch.tensor([[1, 1, 1, 1, 0]]).bool()
    found = replacement_probability(scores, real, 0.3)
    assert torch.allclose(found, torch.tensor([[0.0, 0.36, 0.48, 0.36, 0.0]]), atol=1e-6)
    assert found.sum().item() == pytest.approx(1.2, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.25, 7.0])
def test_equal_scores_fall_back_to_uniform(value):
    real = torch.tensor([[True, True, True, False]])
    found = replacement_probability(torch.full((1, 4), value), real, 0.3)
    assert torch.allclose(found, torch.tensor([[0.3, 0.3, 0.3, 0.0]]))


def test_replacement_probability_is_clipped():
    found = replacement_probability(
        torch.tensor([[1.0, 1.0, 1.0, 0.0]]), torch.ones(1, 4).bool(), 0.9
    )
    assert found.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_corpus_statistics_against_loops():
    words = torch.tensor([[1, 2, 1, 0], [2, 3, 0, 0], [3, 3, 3, 3]])
    idf, summed, seen = corpus_statistics([words[:2], words[2:]], 6)
    texts = [[1, 2, 1], [2, 3], [3, 3, 3, 3]]
    for word in range(1, 4):
        inverse = torch.log(
            torch.tensor(3 / sum(word in text for text in texts), dtype=torch.float64)
        )
        assert idf[word].item() == pytest.approx(inverse.item(), rel=1e-6)
        total = sum(text.count(word) / len(text) for text in texts) * inverse
        assert summed[word].item() == pytest.approx(total.item(), rel=1e-9)
    assert seen.tolist() == [False, True, True, True, False, False]


def test_replacements_come_from_the_training_corpus():
    summed = torch.tensor([0.0, 1.0, 3.0, 2.0, 0.0], dtype=torch.float64)
    seen = torch.tensor([False, True, True, True, False])
    assert torch.allclose(
        replacement_distribution(summed, seen),
        torch.tensor([0, 2 / 3, 0, 1 / 3, 0], dtype=torch.float64),
    )
    flat = replacement_distribution(torch.ones(5, dtype=torch.float64), seen)
    assert torch.allclose(flat, seen.double() / 3)


def test_tfidf_expected_replacements():
    made = source([text for text in TEXTS if text != "Two words"])
    view = fitted(TfidfReplace(0.3), made)
    words = made.words.long()[[4]].expand(
        4000, -1
    )  # all words of this text occur once in the corpus: uniform
    edited = view.edit(words, draws(4000))
    n = (words[0] > 0).sum().item()
    distribution = view.cumulative.diff(prepend=torch.zeros(1, dtype=torch.float64))
    by_chance = sum(1 - distribution[word].item() for word in words[0][words[0] > 0]) / n
    assert (edited != words).sum(1).double().mean() == pytest.approx(0.3 * n * by_chance, abs=0.15)
    assert ((edited > 0) == (words > 0)).all()
    assert distribution[edited[edited != words]].min() > 0


@pytest.mark.parametrize("mode", ["cutoff", "span", "mask"])
def test_cutoff_takes_the_expected_share(mode):
    made = source(["one two three four five six seven eight nine ten"] * 2000)
    raw = see(fitted(Raw(), made), made)
    seen = see(fitted(TokenCutoff(0.15, mode), made), made)
    gone = (
        (seen["ids"] == made.codec.tokenizer.mask)
        if mode == "mask"
        else raw["mask"] & ~seen["mask"]
    )
    n = raw["mask"][0].sum().item() - 2
    count = gone.sum(1)
    assert count.double().mean() == pytest.approx(0.15 * n, abs=0.06)
    assert set(count.tolist()) == {int(0.15 * n), int(0.15 * n) + 1}
    assert torch.equal(seen["ids"][~gone & raw["mask"]], raw["ids"][~gone & raw["mask"]])
    if mode == "span":
        edges = (gone[:, 1:] & ~gone[:, :-1]).sum(1)
        assert (edges <= 1).all()
    else:
        # every piece goes equally often: 2000 × 0.15 expected, deviation 16
        assert (gone.sum(0)[1 : n + 1] - 300).abs().max() < 80


def test_mask_mode_needs_a_mask_token():
    made = source(tokenizer=wrap(byte_level(TEXTS).backend, "maskless", 1, None))
    with pytest.raises(UserError, match="no mask token"):
        TokenCutoff(0.2, "mask").fit(made)


def test_equal_views_in_a_chain_draw_different_numbers():
    made = source(["one two three four five six seven eight nine ten"] * 500)
    once, twice = (fitted(Chain([Weak(0.2) for _ in range(times)]), made) for times in (1, 2))
    left = [
        (view.edit(made.words.long(), draws(500)) > 0).sum(1).double().mean()
        for view in (once, twice)
    ]
    assert left[0] == pytest.approx(8, abs=0.3) and left[1] == pytest.approx(6.4, abs=0.3)


class MetaDraw:
    """Draws without numbers: whoever asks for a value of a tensor on this device fails."""

    def uniform(self, *shape):
        return torch.empty(8, *shape, device="meta")


@pytest.mark.parametrize("coding", ["wordpiece", "byte_level"])
@pytest.mark.parametrize("name", VIEWS)
def test_views_never_ask_the_device_for_a_value(name, coding):
    made = source(tokenizer=byte_level(TEXTS) if coding == "byte_level" else None)
    view = fitted(VIEWS[name](), made)
    data = made.fetch(torch.arange(8))
    expected = view(data, draws(8))
    seen = view({**data, "words": data["words"].to("meta")}, lambda purpose: MetaDraw())
    assert seen["ids"].device.type == "meta" and seen["ids"].shape == expected["ids"].shape
