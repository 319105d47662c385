"""How many samples of each class keep their labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foundation.errors import UserError


def apportion(weights: Tensor, total: int) -> Tensor:
    """Distribute `total` labels over classes in proportion to `weights` [C], at least one each, by
    the largest-remainder method.

    Classes whose quota is below one get one, and the others share the rest. Needs total ≥ C.
    """
    weight = weights.double()
    single = torch.zeros(len(weight), dtype=torch.bool)
    while True:
        rest = total - int(single.sum())
        quota = torch.where(single, 1.0, rest * weight / weight[~single].sum())
        small = ~single & (quota < 1 - 1e-9)
        if not small.any():
            break
        single |= small
    counts = (quota + 1e-9).floor().long()
    remainder = torch.where(single, -1.0, quota - counts)
    # stable: equal remainders go to the class nearer the head
    winners = remainder.argsort(descending=True, stable=True)[: total - int(counts.sum())]
    counts[winners] += 1
    return counts


def total_label_counts(
    available: Tensor, total: int, proportional: bool, names: Sequence[str]
) -> Tensor:
    """Labels per class: `total` in all, the same number in each, and one more in the first classes
    where it does not divide. proportional: in the proportions of `available`."""
    if total < len(available):
        raise UserError(
            f"data.labels={total}: expected at least {len(available)}, one for each class"
        )
    if proportional and total <= int(available.sum()):
        return apportion(available, total)
    counts = apportion(torch.ones_like(available), total)
    short = (available < counts).nonzero().flatten()
    if len(short):
        worst = int(short[available[short].argmin()])
        raise UserError(
            f"data.labels={total}: {int(counts[worst])} are of class '{names[worst]}', which has "
            f"{int(available[worst])} training samples; expected at most "
            f"{int(available.min()) * len(available)}"
        )
    return counts


def label_counts(
    available: Tensor, per_class: int, proportional: bool, names: Sequence[str]
) -> Tensor:
    """Labels per class: exactly `per_class`. proportional: `per_class` on average, in the
    proportions of `available`, at least one each."""
    if proportional:
        total = per_class * len(available)
        if total > int(available.sum()):
            raise UserError(
                f"data.labels_per_class={per_class}: needs {total} labels, but the long-tailed "
                f"training data has {int(available.sum())} samples"
            )
        return apportion(available, total)
    short = (available < per_class).nonzero().flatten()
    if len(short):
        worst = int(short[available[short].argmin()])
        raise UserError(
            f"data.labels_per_class={per_class}: class '{names[worst]}' has "
            f"{int(available[worst])} training samples; expected at most {int(available.min())}"
        )
    return torch.full_like(available, per_class)
