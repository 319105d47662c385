"""Which process of a run this one is, and lines that only the first one prints."""

import os
import sys
from collections.abc import Sequence


def further_rank() -> bool:
    """Whether this process is a rank other than the first, which settles and checks the paths for
    all."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return any(rank.isdigit() and int(rank) > 0 for rank in ranks)


def notify(lines: Sequence[str]) -> None:
    """Print lines for the user, beside what a command prints on stdout."""
    for line in lines:
        print(line, file=sys.stderr)
