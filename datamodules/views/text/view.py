"""Base of text views: words are edited, assembled to subword ids, and the ids may be cut.

    words [B, W] ─ edit ─ words [B, W] ─ assemble ─ ids, mask [B, L] ─ cut ─ ids, mask [B, L]

Random numbers are drawn for the widest possible text and then sliced to the batch's width, so that
a view does not depend on the width of its batch. Special tokens are never changed: they are added
after `edit`, and `cut` knows which ids are content.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from datamodules.source import Source
from datamodules.text.codec import Codec, Pieces
from foundation.randomness import Draw
from foundation.types import ShareBelowOne

DrawFor = Callable[[str], Draw]


class TextView(nn.Module):
    """Base of text views; called with a batch of words and `draw_for`, returns {"ids": int64,
    "mask": bool, "content": bool} [B, L], see `Pieces`.

    A subclass implements `edit`, `cut`, or both. `fit` must be called once, with the encoded
    training texts, before the first batch.

    grows: whether edited texts can have more ids than the original.
    """

    grows: bool = False
    codec: Codec

    def __init__(self) -> None:
        super().__init__()
        self._home: torch.device | None = None

    def fit(self, source: Source) -> None:
        """Store the codec and compute the view's statistics from the training texts."""
        self.codec = source.codec  # type: ignore[attr-defined]
        self._home = None

    def edit(self, words: Tensor, draw_for: DrawFor) -> Tensor:
        """Change words int64 [B, W]. Input and output have real words on the left, 0 on the
        right."""
        return words

    def cut(self, pieces: Pieces, draw_for: DrawFor) -> Pieces:
        """Change subword ids."""
        return pieces

    def forward(self, data: Mapping[str, Any], draw_for: DrawFor) -> dict[str, Tensor]:
        words = data["words"].long()
        if self._home != words.device:
            self.to(words.device)
            self._home = words.device
        edited = self.edit(words, draw_for)
        # With a sensitive tokenizer, moved words alone can need more ids.
        wide = self.grows or self.codec.tokenizer.sensitive
        pieces = self.codec.assemble(
            edited, self.codec.room(words), data["width" if wide else "length"]
        )
        pieces = self.cut(pieces, draw_for)
        return pieces._asdict()

    def word_uniform(self, draw_for: DrawFor, purpose: str, words: Tensor) -> Tensor:
        """A uniform number for each word [B, W]."""
        return draw_for(purpose).uniform(self.codec.max_words)[:, : words.shape[1]]


class Raw(TextView):
    """The unchanged text, used for evaluation."""


class Weak(TextView):
    """The text as it is, or with each word left out with probability `word_dropout` (one word
    always stays).

    word_dropout: probability of leaving out a word, in [0, 1); 0: the text itself.
    """

    def __init__(self, word_dropout: ShareBelowOne = 0.0):
        super().__init__()
        self.word_dropout = word_dropout

    def edit(self, words: Tensor, draw_for: DrawFor) -> Tensor:
        if self.word_dropout == 0:
            return words
        chances = self.word_uniform(draw_for, "drop", words)
        return drop_words(words, chances, self.word_dropout)


class Chain(TextView):
    """Several views in sequence: all edits of words in order, then all cuts in order."""

    def __init__(self, views: Sequence[TextView]):
        super().__init__()
        self.views = nn.ModuleList(views)
        self.grows = any(view.grows for view in views)

    @property
    def text_views(self) -> Iterable[TextView]:
        return cast(Iterable[TextView], self.views)

    def fit(self, source: Source) -> None:
        super().fit(source)
        for view in self.text_views:
            view.fit(source)

    def edit(self, words: Tensor, draw_for: DrawFor) -> Tensor:
        for place, view in enumerate(self.text_views):
            words = view.edit(words, _prefixed(draw_for, place))
        return words

    def cut(self, pieces: Pieces, draw_for: DrawFor) -> Pieces:
        for place, view in enumerate(self.text_views):
            pieces = view.cut(pieces, _prefixed(draw_for, place))
        return pieces


def _prefixed(draw_for: DrawFor, place: int) -> DrawFor:
    """Draws keyed by the place in a chain, so that two views of one class draw independently."""
    return lambda purpose: draw_for(f"{place}/{purpose}")


def drop_words(words: Tensor, chances: Tensor, probability: float) -> Tensor:
    """Drop each word [B, W] with the given probability and close the gaps; one word of a text is
    always kept.

    chances: uniform [B, W]. If all words of a text would be dropped, the one with the highest value
        is kept, which is uniform over the words.
    """
    real = words > 0
    best = torch.where(real, chances, -1.0).argmax(1, keepdim=True)
    keep = (chances >= probability).scatter(1, best, True)
    return close_gaps(torch.where(keep & real, words, 0))


def close_gaps(words: Tensor) -> Tensor:
    """Move real words [B, W] to the left, in order."""
    order = (words == 0).to(torch.uint8).argsort(dim=1, stable=True)
    return words.gather(1, order)
