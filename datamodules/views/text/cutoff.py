"""Cutoff and masking of subword pieces.

Shen, Zheng, Shen, Qu, Chen, A Simple but Tough-to-Beat Data Augmentation Approach for Natural
Language Understanding and Generation, 2020, arXiv 2009.13818 (token and span cutoff).
"""

from typing import Literal

import torch
from torch import Tensor

from datamodules.source import Source
from datamodules.text.codec import Pieces
from datamodules.views.text.view import DrawFor, TextView
from foundation.errors import UserError
from foundation.types import ShareBelowOne


class TokenCutoff(TextView):
    """Remove a share of a text's subword pieces; special tokens and the last remaining piece are
    kept.

    k of n pieces go, k = floor(share * n + u) with u uniform in [0, 1), so that E[k] = share * n
    for short texts too; at most n - 1. Places of the others stay. Where we differ: the paper sets
    embeddings to zero, which a network still attends to. Raises UserError where `mask` is asked for
    and the tokenizer has no mask token.

    share: share of the pieces that go, in [0, 1).
    mode: `cutoff` hides random pieces, `span` one run, `mask` puts [MASK] there. Hidden from
        attention and pooling.
    """

    def __init__(
        self,
        share: ShareBelowOne = 0.15,
        mode: Literal["cutoff", "span", "mask"] = "cutoff",
    ):
        super().__init__()
        self.share = share
        self.mode = mode

    def fit(self, source: Source) -> None:
        super().fit(source)
        tokenizer = self.codec.tokenizer
        if self.mode == "mask" and tokenizer.mask is None:
            raise UserError(
                f"data.views: TokenCutoff.mode=mask, but '{tokenizer.name}' has no mask token; use "
                "cutoff"
            )

    def cut(self, pieces: Pieces, draw_for: DrawFor) -> Pieces:
        if self.share == 0:
            return pieces
        n = pieces.content.sum(1)
        extra = draw_for("count").uniform()
        k = torch.minimum((self.share * n + extra).long(), (n - 1).clamp(min=0))
        if self.mode == "span":
            chosen = _run(pieces.content, n, k, draw_for("start").uniform())
        else:
            order = draw_for("piece").uniform(self.codec.max_length)[:, : pieces.ids.shape[1]]
            chosen = _lowest(order, pieces.content, k)
        tokenizer = self.codec.tokenizer
        if self.mode == "mask":
            assert tokenizer.mask is not None  # `fit` refuses such a tokenizer
            return pieces._replace(ids=torch.where(chosen, tokenizer.mask, pieces.ids))
        ids = torch.where(chosen, tokenizer.pad, pieces.ids)
        return Pieces(ids, pieces.mask & ~chosen, pieces.content & ~chosen)


def _lowest(order: Tensor, content: Tensor, k: Tensor) -> Tensor:
    """True [B, L] on the k [B] content pieces with the lowest values of `order`."""
    rank = torch.where(content, order, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
    return content & (rank < k[:, None])


def _run(content: Tensor, n: Tensor, k: Tensor, chance: Tensor) -> Tensor:
    """True [B, L] on k [B] consecutive content pieces with a uniform start."""
    start = torch.minimum((chance * (n - k + 1)).long(), (n - k).clamp(min=0))
    place = content.cumsum(1) - 1
    return content & (place >= start[:, None]) & (place < (start + k)[:, None])
