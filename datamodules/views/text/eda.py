"""Easy data augmentation without synonyms.

Wei and Zou, EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification
Tasks, EMNLP 2019, arXiv 1901.11196.
"""

import torch
from torch import Tensor

from datamodules.source import Source
from datamodules.views.text.view import DrawFor, TextView, drop_words
from foundation.types import ShareBelowOne


class EdaLite(TextView):
    """n swaps of two random words, then each word is dropped with probability alpha (one word is
    always kept).

    n = max(1, int(alpha * length)).

    Where we differ: no synonym replacement and no random insertion, both need WordNet. The paper
    makes several sentences with one operation each, we apply swap and deletion to one. The two
    words of a swap are always different places (the authors try three times and may give up), so a
    text of one word is never changed.

    alpha: share of words swapped, probability of deletion, in [0, 1); 0.1 (paper); 0: the text
        itself.
    """

    swap_table: Tensor

    def __init__(self, alpha: ShareBelowOne = 0.1):
        super().__init__()
        self.alpha = alpha

    def swaps(self, length: int) -> int:
        """n for a text of `length` words."""
        return max(1, int(self.alpha * length))

    def fit(self, source: Source) -> None:
        super().fit(source)
        table = torch.tensor([self.swaps(length) for length in range(self.codec.max_words + 1)])
        self.register_buffer("swap_table", table, persistent=False)

    def edit(self, words: Tensor, draw_for: DrawFor) -> Tensor:
        if self.alpha == 0:
            return words
        drawn = draw_for("swap").uniform(self.swaps(self.codec.max_words), 2)
        length = (words > 0).sum(1)
        rounds = self.swaps(words.shape[1])
        words = swap_words(words, drawn[:, :rounds], length, self.swap_table[length])
        return drop_words(words, self.word_uniform(draw_for, "drop", words), self.alpha)


def swap_words(words: Tensor, drawn: Tensor, length: Tensor, times: Tensor) -> Tensor:
    """Swap two different random words, `times` [B] times in a row of `length` [B] real words.

    words: int64 [B, W].
    drawn: uniform [B, R, 2] with R at least the largest of `times`.

    Swaps depend on those before, so the loop is over swaps (at most alpha * W), each for the whole
    batch.
    """
    last = (length - 1).clamp(min=0)
    first = torch.minimum((drawn[..., 0] * length[:, None]).long(), last[:, None])
    step = 1 + torch.minimum(
        (drawn[..., 1] * last[:, None]).long(), (last - 1).clamp(min=0)[:, None]
    )
    second = (first + step) % length.clamp(min=1)[:, None]
    for turn in range(drawn.shape[1]):
        active = (turn < times) & (length > 1)
        places = torch.stack(
            [first[:, turn], torch.where(active, second[:, turn], first[:, turn])], 1
        )
        words = words.scatter(1, places, words.gather(1, places.flip(1)))
    return words
