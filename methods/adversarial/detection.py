"""How well a score separates attacked samples from clean ones."""

import math

import torch
from torch import Tensor

from foundation.distributed import gather_uneven, gathering_device, names_of_any_rank
from methods.adversarial.reported_victim import ReportedVictim
from recipes.contract.remark import Remark

FALSE_ALARMS = 0.05  # at which detection rates are compared


def alarm_at(clean: Tensor, false_alarms: float) -> Tensor:
    """The ⌈(1 - a) n⌉-th smallest clean score [n]: at most the share a of them is above it."""
    # rounded, since 0.95 · n is not exact
    place = math.ceil(round((1 - false_alarms) * len(clean), 9))
    return clean.sort().values[max(place, 1) - 1]


def area_under_curve(clean: Tensor, attacked: Tensor) -> float:
    """P(attacked > clean) + ½ P(attacked = clean), of a random pair of scores."""
    clean = clean.sort().values
    below = torch.searchsorted(clean, attacked, right=False)
    not_above = torch.searchsorted(clean, attacked, right=True)
    return float((below + not_above).double().mean()) / 2 / len(clean)


class Detection:
    """What the methods of a run that flag samples make of an attack.

    auc: area under the curve of the score of successful attacks against that of all clean samples.
    tpr@5: share of the successful attacks whose score is above all but 5 % of the clean ones.
    detected: share of the successful attacks that the method flags, at its own alarm.
    false_alarms: share of the clean samples that it flags.
    undetected_success: share of all samples, first classified correctly, then wrong and not flagged
        by any method.

    Of several restarts the successful one with the smallest score counts.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def add(self, victim: ReportedVictim, points: list[Tensor], success: Tensor) -> None:
        """points: the clean samples, then the result of each restart. success: bool [R, N], by
        restart."""
        remarks = [victim.remarks(point) for point in points]
        names = [name for name, remark in remarks[0].items() if remark.alarm is not None]
        if not names:
            return
        batch = {}
        unflagged = success.clone()
        for name in names:
            scores = torch.stack([remark[name].values.detach().float() for remark in remarks])
            flags = torch.stack([flags_of(remark[name]) for remark in remarks])
            lowest = scores[1:].masked_fill(~success, torch.inf).argmin(0, keepdim=True)
            columns = [
                scores[0],
                scores[1:].gather(0, lowest)[0],
                flags[0],
                flags[1:].gather(0, lowest)[0],
                success.any(0).float(),
            ]
            batch[name] = torch.stack(columns, dim=1)
            unflagged &= ~(flags[1:] > 0)
        batch[""] = unflagged.any(0).float().unsqueeze(1)
        self._batches.append(batch)

    def compute(self, prefix: str = "") -> dict[str, Tensor]:
        """Metrics by name, over all ranks; empty where no method flags samples."""
        names = names_of_any_rank(list(self._batches[0]) if self._batches else [])
        found: dict[str, Tensor] = {}
        for name in names:
            rows = [batch[name] for batch in self._batches]
            none = torch.zeros(0, 5 if name else 1, device=gathering_device())
            table = gather_uneven(torch.cat(rows) if rows else none).cpu()
            if not name:
                found[f"{prefix}undetected_success"] = table.mean()
                continue
            # with one detector its name says nothing
            start = f"{prefix}{name}/" if len(names) > 2 else prefix
            found |= {f"{start}{key}": value for key, value in rates(table).items()}
        return found

    def reset(self) -> None:
        self._batches = []


def flags_of(remark: Remark) -> Tensor:
    flags = remark.flags()
    assert flags is not None, "only remarks with an alarm are asked"
    return flags


def rates(table: Tensor) -> dict[str, Tensor]:
    """Metrics of one detector. table: [n, 5], clean score, attacked score, clean flag, attacked
    flag, success. Without a successful attack only false alarms are known."""
    clean = table[:, 0]
    hit = table[:, 4] > 0
    found = {"false_alarms": table[:, 2].mean()}
    if hit.any():
        attacked = table[hit, 1]
        found["auc"] = torch.tensor(area_under_curve(clean, attacked))
        found["tpr@5"] = (attacked > alarm_at(clean, FALSE_ALARMS)).float().mean()
        found["detected"] = table[hit, 3].mean()
    return {f"detection/{name}": value for name, value in found.items() if not value.isnan()}
