"""Words of the config for networks."""

from typing import Literal

SMALL = "roux_text_small"  # our own encoder of texts, which needs no files
Pooling = Literal["mean", "cls"]
