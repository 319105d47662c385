"""Word replacement by TF-IDF: uninformative words are replaced by uninformative words.

Xie, Dai, Hovy, Luong, Le, Unsupervised Data Augmentation for Consistency Training, NeurIPS 2020,
arXiv 1904.12848.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from datamodules.source import Source
from datamodules.views.text.view import DrawFor, TextView
from foundation.types import Share


class TfidfReplace(TextView):
    """Replace word i of a text of n words with probability
    min(1, p (Cmax - c_i) n / Σ_j (Cmax - c_j)).

    p: mean share of replaced words (as long as no probability is clipped at 1). 0.7 to 0.9 suit
        topics; avoid this view for sentiment, which can depend on the replaced words.

    c_i = tf_i * idf_i is the word's score in the text, Cmax the largest of them. If all scores are
    equal the formula is 0/0, and every word is replaced with probability p. The new word w is drawn
    from the training corpus with probability proportional to max S - S(w), where S(w) is the sum of
    its scores over all texts; if all S are equal, uniformly.

    p: expected share of replaced words, 0 to 1; 0.7 to 0.9 suit topics (paper). Avoid this view for
        sentiment, where the replaced words can carry it.
    """

    grows = True

    idf: Tensor
    cumulative: Tensor

    def __init__(self, p: Share = 0.3):
        super().__init__()
        self.p = p

    def fit(self, source: Source) -> None:
        super().fit(source)
        blocks = source.word_blocks()  # type: ignore[attr-defined]
        idf, summed, seen = corpus_statistics(blocks, self.codec.size)
        self.register_buffer("idf", idf, persistent=False)
        self.register_buffer(
            "cumulative", replacement_distribution(summed, seen).cumsum(0), persistent=False
        )

    def edit(self, words: Tensor, draw_for: DrawFor) -> Tensor:
        if self.p == 0:
            return words
        real = words > 0
        idf = self.idf[torch.where(words < len(self.idf), words, 0)]
        repeats = (words[:, :, None] == words[:, None, :]).sum(2)
        # tf without the division by the text's length, which cancels in the probability below.
        chance = replacement_probability(repeats * idf, real, self.p)
        replaced = self.word_uniform(draw_for, "replace", words) < chance
        drawn = self.word_uniform(draw_for, "word", words).double() * self.cumulative[-1]
        new = torch.searchsorted(self.cumulative, drawn, right=True).clamp(
            max=len(self.cumulative) - 1
        )
        return torch.where(replaced & real, new, words)


def replacement_probability(scores: Tensor, real: Tensor, p: float) -> Tensor:
    """min(1, p (Cmax - c_i) n / Σ_j (Cmax - c_j)) for scores [B, W] of real words, 0 elsewhere.

    Scores (.5, .2, .1, .2) and p = .3 give (0, .36, .48, .36).
    """
    low = torch.finfo(scores.dtype).min
    top = torch.where(real, scores, low).amax(1, keepdim=True)
    gap = torch.where(real, top - scores, 0.0)
    total = gap.sum(1, keepdim=True)
    n = real.sum(1, keepdim=True)
    # Equal scores can differ by rounding: gaps of this size are noise.
    flat = total <= 1e-6 * n * top.abs()
    share = torch.where(flat, 1.0, gap * n / torch.where(flat, 1.0, total))
    return torch.where(real, (p * share).clamp(max=1.0), 0.0)


def corpus_statistics(blocks: Iterable[Tensor], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(idf float32 [V], S float64 [V], seen bool [V]) of texts in blocks of words [n, W]; word 0 is
    no word.

    tf is the share of a word in its text, so S(w) = idf(w) Σ_texts count(w, text) / length(text).
    """
    texts = 0
    frequency = torch.zeros(size, dtype=torch.int64)
    summed = np.zeros(size)
    for block in blocks:
        words = block.long()
        real = words > 0
        length = real.sum(1, keepdim=True).clamp(min=1)
        present = real & ~_repeated(words)
        texts += len(words)
        frequency += torch.bincount(words[present], minlength=size)
        share = (1.0 / length.double()).expand_as(words)[real]
        # one number after the other: the sum does not depend on the blocks
        np.add.at(summed, words[real].numpy(), share.numpy())
    idf = torch.log(texts / frequency.clamp(min=1).double())
    return idf.float(), torch.from_numpy(summed) * idf, frequency > 0


def _repeated(words: Tensor) -> Tensor:
    """True [N, W] on one of two equal words of a row, for all but one of them."""
    ordered, order = words.sort(dim=1, stable=True)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(again).scatter(1, order, again)


def replacement_distribution(summed: Tensor, seen: Tensor) -> Tensor:
    """Probability [V] of each word as a replacement: proportional to max S - S(w) among the words
    seen."""
    gap = torch.where(seen, summed[seen].max() - summed, 0.0)
    if gap.sum() == 0:
        gap = seen.double()
    return gap / gap.sum()
