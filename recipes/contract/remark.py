"""What methods say about single samples at evaluation and prediction."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FLAGGED = "_flagged"  # ends the name of the column that an alarm adds


@dataclass(frozen=True)
class Remark:
    """A value for each sample.

    values: [N], with a graph where an attack asks.
    alarm: the value above which a sample is flagged, a scalar; NaN while it is not known. None:
        this value flags nothing.
    """

    values: Tensor
    alarm: Tensor | None = None

    def flags(self) -> Tensor | None:
        """float32 [N]: 1 above the alarm, else 0; NaN where the alarm is not known."""
        if self.alarm is None:
            return None
        values = self.values.detach().float()
        alarm = self.alarm.to(values.device)
        return torch.where(alarm.isnan(), torch.nan, (values > alarm).float())


def columns(remarks: Mapping[str, Remark]) -> dict[str, Tensor]:
    """float32 [N] by name; a remark with an alarm has a second column, `NAME_flagged`."""
    found: dict[str, Tensor] = {}
    for name, remark in remarks.items():
        found[name] = remark.values.detach().float()
        flags = remark.flags()
        if flags is not None:
            found[name + FLAGGED] = flags
    return found
