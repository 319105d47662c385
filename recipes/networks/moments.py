"""The mean and standard deviation with which a network normalizes images."""

from collections.abc import Mapping, Sequence
from typing import Any

from foundation.errors import UserError

Moments = float | Sequence[float]


def resolve_moments(
    channels: int,
    mean: Moments | None,
    std: Moments | None,
    pretrained_cfg: Mapping[str, Any] | None,
    data_moments: tuple[Moments, Moments] | None = None,
) -> tuple[list[float], list[float]]:
    """The normalization (x - mean) / std, each from the first of these that is given:

    1. `mean`, `std` of the config;
    2. the model's own, if weights are loaded (they were trained with it);
    3. the data set's;
    4. 0.5 and 0.5, which maps [0, 1] to [-1, 1].

    One number is used for all channels. Three numbers for gray images: their mean, because timm
    sums the three filters of a pretrained first layer. Three numbers for another number of
    channels: repeated in turn, as timm repeats filters. Raises UserError for another count, and for
    std <= 0.
    """
    own: tuple[Moments | None, Moments | None] = (None, None)
    if pretrained_cfg is not None:
        own = pretrained_cfg.get("mean"), pretrained_cfg.get("std")
    data = data_moments or (None, None)
    found: list[list[float]] = []
    for key, explicit, model, dataset in zip(("mean", "std"), (mean, std), own, data, strict=True):
        value = next((v for v in (explicit, model, dataset) if v is not None), 0.5)
        found.append(_per_channel(key, value, channels))
    if min(found[1]) <= 0:
        raise UserError(f"network.std={found[1]}: every value must be above 0")
    return found[0], found[1]


def _per_channel(key: str, value: Moments, channels: int) -> list[float]:
    values = [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if len(values) == 3:
        if channels == 1:
            return [sum(values) / 3]
        return [values[i % 3] for i in range(channels)]
    raise UserError(
        f"network.{key}={values}: {len(values)} values for {channels} channels; give 1 or "
        f"{channels}"
    )
