"""State whose shape is known only once a run is under way, and at resume from the checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class AdoptsShape(nn.Module):
    """A module with buffers that take their shape from the checkpoint: what depends on the batch or
    the first step.

    adopted_shapes: names of these buffers. A fresh one has the right number of dimensions and the
    right kind of numbers; only its sizes are provisional.
    """

    adopted_shapes: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.adopted_shapes:
            own, saved = getattr(self, name), state_dict.get(f"{prefix}{name}")
            # anything else is left to torch, which says what does not fit
            if saved is not None and adoptable(saved, own):
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def adoptable(saved: Tensor, own: Tensor) -> bool:
    """Whether the two have as many dimensions and the same kind of numbers; the precision may be
    another."""
    return saved.ndim == own.ndim and saved.is_floating_point() == own.is_floating_point()


def adopted_names(module: nn.Module) -> Iterator[str]:
    """Names in the state of `module` of all buffers that take their shape from the checkpoint."""
    for path, child in module.named_modules():
        if isinstance(child, AdoptsShape):
            yield from (f"{path}.{name}".lstrip(".") for name in child.adopted_shapes)
