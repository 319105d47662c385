"""State whose shape is known only after the first step, or from the checkpoint at resume."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class AdoptsShape(nn.Module):
    """A module with buffers whose shape depends on the batch; loading takes it from the checkpoint.

    adopted_shapes: names of these buffers. Initially they have the right number of dimensions and
        kind of dtype; only their sizes are provisional.
    """

    adopted_shapes: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.adopted_shapes:
            own = getattr(self, name)
            saved = state_dict.get(f"{prefix}{name}")
            # otherwise torch reports the mismatch
            if saved is not None and adoptable(saved, own):
                setattr(self, name, torch.empty_like(saved, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def adoptable(saved: Tensor, own: Tensor) -> bool:
    """Whether both have the same number of dimensions and are both floating point or both not; the
    precision may differ."""
    return saved.ndim == own.ndim and saved.is_floating_point() == own.is_floating_point()


def adopted_names(module: nn.Module) -> Iterator[str]:
    """Names in the state of `module` of all buffers that take their shape from the checkpoint."""
    for path, child in module.named_modules():
        if isinstance(child, AdoptsShape):
            yield from (f"{path}.{name}".lstrip(".") for name in child.adopted_shapes)
