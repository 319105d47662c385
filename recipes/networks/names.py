"""Names that configs use for networks."""

from typing import Literal

SMALL = "roux_text_small"  # our own text encoder, which needs no files
Pooling = Literal["mean", "cls", "last"]
