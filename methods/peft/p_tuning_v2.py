"""P-tuning v2. Liu et al., P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally
Across Scales and Tasks, ACL 2022, arXiv 2110.07602."""

from typing import Literal

from foundation.types import Count, ShareBelowOne, Steps
from methods.peft.prefix_tuning import PrefixTuning


class PTuningV2(PrefixTuning):
    """Attn(q, [P_k; K], [P_v; V]) with a classifier: prefix tuning as it is used for understanding
    texts.

    Rows in every attention, trained directly, with dropout that is drawn for every sample; a new
    head reads the encoder, no word of a language model. One prefix may be trained on several tasks
    at once and then be loaded for each. Differs from the authors' code, whose rows are a cache that
    shifts the positions of the tokens: `positions=shift`. Rows have no weight decay. Learning
    rates: AdamW 5e-3 to 1e-2, for up to 100 epochs.

    length: rows P in every attention, at least 1; 20. About 20 for simple classification, 100 and
        more for hard tasks on sequences (paper).
    hidden: width of the MLP that makes the rows, at least 0; 0: none (paper: it helps some tasks).
    dropout: dropout of the rows, in [0, 1); null: that of the encoder's states (authors' code).
    positions: `keep` the tokens' positions (ours), or `shift` them by P (authors, peft library).
    load: delta of another run, or a folder in the peft library's format, to start from; null: none.
        A run on texts with positions=shift writes such a folder.
    """

    def __init__(
        self,
        length: Count = 20,
        hidden: Steps = 0,
        dropout: ShareBelowOne | None = None,
        positions: Literal["keep", "shift"] = "keep",
        load: str | None = None,
    ):
        super().__init__(length, hidden, positions, load)
        self.dropout = dropout
