"""The codec: texts become word numbers once, and word numbers become subword ids on the device in
every step.

Views change words (drop, swap, replace), so a view needs words; a network needs subword ids. The
codec stores the table between the two as flat tensors: word w has the ids `pieces[offsets[w] :
offsets[w] + lengths[w]]`. Assembling a batch is then a cumulative sum and a gather, without a loop
over samples and without a device sync.

Word 0 is "no word": padding on the right, or a deleted word. It has no ids.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.text.tokenizer import Ids, TextTokenizer, Word
from foundation.errors import UserError

ROOM = 5, 4  # a view may grow to 5/4 of the original's length
CHUNK = 10_000  # texts that are tokenized at once
STEP = 8  # lengths are rounded up to a multiple of this


class Pieces(NamedTuple):
    """Subword ids [B, L]; `mask` is True on ids that the network attends to, `content` on ids of
    the text, not of special tokens.
    """

    ids: Tensor
    mask: Tensor
    content: Tensor


def round_up(length, most: int):
    """The next multiple of 8, at most `most`; for ints and tensors."""
    rounded = (length + STEP - 1) // STEP * STEP
    return rounded.clamp(max=most) if isinstance(rounded, Tensor) else min(rounded, most)


class Codec(nn.Module):
    """The table from words to subword ids. Its buffers move with `.to(device)` and are not in
    checkpoints, because they are computed from the data.

    max_length: ids of a text including special tokens; longer texts are cut and keep their closing
        token. A word has at least one id, so a text needs at most `max_words` words.
    """

    pieces: Tensor
    offsets: Tensor
    lengths: Tensor
    prefix: Tensor
    suffix: Tensor

    def __init__(self, tokenizer: TextTokenizer, max_length: int = 128):
        super().__init__()
        special = len(tokenizer.prefix) + len(tokenizer.suffix)
        if max_length <= special:
            raise UserError(
                f"data.text.max_length={max_length}: expected more than the {special} special "
                "tokens"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_words = max_length - special
        self.special = special
        # by the ids of a word, or by both of its codings; None: not made yet from the table
        self._numbers: dict[Any, int] | None = {}
        self._placed: dict[str, Ids] = {}
        self.register_buffer(
            "prefix", torch.tensor(tokenizer.prefix, dtype=torch.long), persistent=False
        )
        self.register_buffer(
            "suffix", torch.tensor(tokenizer.suffix, dtype=torch.long), persistent=False
        )
        for name in ("pieces", "offsets", "lengths"):
            self.register_buffer(name, torch.zeros(1, dtype=torch.long), persistent=False)
        self._fill_table()

    @property
    def size(self) -> int:
        """Number of known words, including the empty word 0."""
        if self._numbers is None:
            return len(self.lengths) // (2 if self.tokenizer.sensitive else 1)
        return len(self._numbers) + 1

    # -- texts to words, on the host, once ---------------------------------------------------------
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Words of each text: int32 [N, W], 0 on the right; new words are added to the table."""
        # arrays of machine integers: lists of a million texts would take gigabytes
        numbers, counts = array("i"), array("i")
        for row in self.number(texts):
            numbers.extend(row)
            counts.append(len(row))
        self.complete()
        lengths = torch.from_numpy(np.array(counts, dtype=np.int32))
        width = int(lengths.max().clamp_min(1)) if len(texts) else 1
        table = torch.zeros(len(texts), width, dtype=torch.int32)
        # a mask selects in row-major order, so one flat array fills all rows
        filled = torch.arange(width, dtype=torch.int32) < lengths[:, None]
        table[filled] = torch.from_numpy(np.array(numbers, dtype=np.int32))
        return table

    def number(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The numbers of the words of each text. New words are in the table after `complete`."""
        for start in range(0, len(texts), CHUNK):
            yield from self._numbered(texts[start : start + CHUNK])

    def complete(self) -> None:
        """Add the words that were numbered to the table."""
        rows = self.size * (2 if self.tokenizer.sensitive else 1)
        if rows > len(self.lengths):
            self._fill_table()

    def restore(self, pieces: Tensor, lengths: Tensor) -> None:
        """Take the table of another codec of this tokenizer."""
        self._numbers = None
        self.pieces = pieces
        self.lengths = lengths
        self.offsets = lengths.cumsum(0) - lengths

    @property
    def numbers(self) -> dict[Any, int]:
        """The number of every known word."""
        if self._numbers is None:
            ids = self.pieces.tolist()
            stops = self.lengths.cumsum(0).tolist()
            starts = self.offsets.tolist()
            coded = [tuple(ids[a:b]) for a, b in zip(starts, stops, strict=True)]
            keys: Iterable[Any] = coded[1:]
            if self.tokenizer.sensitive:  # the second half has the codings at the start of a text
                half = len(coded) // 2
                keys = zip(coded[half + 1 :], coded[1:half], strict=True)
            self._numbers = {key: number for number, key in enumerate(keys, 1)}
        return self._numbers

    def _numbered(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The numbers of the words of each text."""
        numbers = self.numbers
        if self.tokenizer.sensitive:
            rows = [words[: self.max_words] for words in self.tokenizer.encode(texts)]
            for keys in self._placed_keys(texts, rows):
                yield [numbers.setdefault(key, len(numbers) + 1) for key in keys]
            return
        # the ids of a word at the start of a text and elsewhere are the same
        for words in self.tokenizer.encode_without_places(texts):
            yield [numbers.setdefault(ids, len(numbers) + 1) for ids in words[: self.max_words]]

    def _placed_keys(
        self, texts: Sequence[str], rows: list[list[Word]]
    ) -> list[list[tuple[Ids, Ids]]]:
        """Two codings of every word, for tokenizers that code the first word of a text differently:
        a first word has (its ids, its ids elsewhere), a later one (its ids as a first word, its
        ids).
        """
        rows_of_surfaces = []
        forms = set()
        for text, words in zip(texts, rows, strict=True):
            surfaces = [text[start:stop].strip() for _, start, stop in words]
            rows_of_surfaces.append(surfaces)
            forms.update(surfaces[1:])
            forms.update(f" {first}" for first in surfaces[:1])
        new = sorted(forms - self._placed.keys())
        coded = self.tokenizer.backend.encode_batch(new, add_special_tokens=False)
        self._placed.update(
            (form, tuple(entry.ids)) for form, entry in zip(new, coded, strict=True)
        )
        keys = []
        for surfaces, words in zip(rows_of_surfaces, rows, strict=True):
            ids = [word[0] for word in words]
            later = [(self._placed[s], i) for s, i in zip(surfaces[1:], ids[1:], strict=True)]
            if ids:
                keys.append([(ids[0], self._placed[f" {surfaces[0]}"]), *later])
            else:
                keys.append([])
        return keys

    def _fill_table(self) -> None:
        """Store the ids of all words. For a sensitive tokenizer the table has a second half: the
        codings at the start of a text.
        """
        empty: list[Ids] = [()]
        if self.tokenizer.sensitive:
            table = empty + [inner for _, inner in self.numbers]
            table += empty + [initial for initial, _ in self.numbers]
        else:
            table = [*empty, *self.numbers]
        device = self.pieces.device
        lengths = torch.tensor([len(ids) for ids in table], dtype=torch.long, device=device)
        # One more id than needed keeps every gather in range, also for an empty table.
        ids = [*chain.from_iterable(table), self.tokenizer.pad]
        self.pieces = torch.tensor(ids, device=device)
        self.offsets = lengths.cumsum(0) - lengths
        self.lengths = lengths

    # -- words to subword ids, on the device, every step -------------------------------------------
    def _rows(self, words: Tensor) -> Tensor:
        """Row of the table for each word [B, W]."""
        if not self.tokenizer.sensitive:
            return words
        real = words > 0
        first = real & (real.cumsum(1) == 1)
        return words + self.size * first

    def count(self, words: Tensor) -> Tensor:
        """Ids [B] of texts of words [B, W] with their special tokens, at most `max_length`."""
        return (self.lengths[self._rows(words.long())].sum(1) + self.special).clamp(
            max=self.max_length
        )

    def room(self, words: Tensor) -> Tensor:
        """Ids [B] that views of these texts may have: a quarter more than the original, rounded up.

        It depends on the text, not on the batch, so that a view is cut at the same place in every
        batch.
        """
        grow, base = ROOM
        return round_up((self.count(words) * grow + base - 1) // base, self.max_length)

    def widths(self, longest: int) -> tuple[int, int]:
        """(ids of the longest original, ids of its longest view), rounded up: widths of a batch."""
        grow, base = ROOM
        view = (longest * grow + base - 1) // base
        return round_up(longest, self.max_length), round_up(view, self.max_length)

    def assemble(self, words: Tensor, room: Tensor, width: int) -> Pieces:
        """Subword ids of edited texts.

        words: int64 [B, W]; 0 at any position is no word.
        room: [B], most ids of a row; a longer row is cut and keeps its closing tokens.
        width: L, an int on the host (see `widths`).
        """
        rows = self._rows(words)
        lengths = self.lengths[rows]
        ends = lengths.cumsum(1)
        total = torch.minimum(ends[:, -1], room.clamp(max=width) - self.special)[:, None]
        place = torch.arange(width, device=words.device)
        inside = (place - len(self.prefix)).clamp(min=0).expand(len(words), -1).contiguous()
        # The word of an id is the first one that ends behind it.
        word = torch.searchsorted(ends, inside, right=True).clamp(max=words.shape[1] - 1)
        row = rows.gather(1, word)
        within = inside - ends.gather(1, word) + lengths.gather(1, word)
        found = (self.offsets[row] + within).clamp(min=0, max=len(self.pieces) - 1)
        content = (place >= len(self.prefix)) & (place < len(self.prefix) + total)
        ids = torch.where(content, self.pieces[found], self.tokenizer.pad)
        mask = place < total + self.special
        return Pieces(self._frame(ids, place, total, mask, content), mask, content)

    def _frame(
        self, ids: Tensor, place: Tensor, total: Tensor, mask: Tensor, content: Tensor
    ) -> Tensor:
        """Put the special tokens before and after the content."""
        if len(self.prefix):
            before = (place < len(self.prefix)).expand_as(ids)
            ids = torch.where(before, self.prefix[place.clamp(max=len(self.prefix) - 1)], ids)
        if len(self.suffix):
            behind = (place - len(self.prefix) - total).clamp(min=0, max=len(self.suffix) - 1)
            after = mask & ~content & (place >= len(self.prefix))
            ids = torch.where(after, self.suffix[behind], ids)
        return ids

    def decode(self, ids: Tensor, mask: Tensor) -> list[str]:
        """Views [B, L] as strings, for display (syncs with the device)."""
        return [
            self.tokenizer.decode(row[seen].tolist())
            for row, seen in zip(ids.cpu(), mask.bool().cpu(), strict=True)
        ]
