"""GLoRA whose forms are drawn anew in every step: one set of weights for all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.peft.glora_forms import SUPPORTS, Forms, Kind, cost, drawn_forms, part
from methods.peft.glora_layer import General
from methods.peft.sites import Site


class Draw:
    """What all layers of a network take their forms from. key: of the training step; None: the
    largest forms. chosen: forms of each layer, for the search; None: none are."""

    key: tuple[object, ...] | None = None
    chosen: Sequence[Forms] | None = None


class Shared(General):
    """A layer with the tensors of the largest forms. number: of the layer."""

    def __init__(self, site: Site, rank: int, kinds: dict[str, Kind], number: int, draw: Draw):
        super().__init__(site, rank, kinds)
        self.kinds = kinds
        self.number = number
        self.draw = draw

    def forms(self) -> Forms:
        """The forms of the present forward: in a step all forwards have the same."""
        if self.draw.chosen is not None:
            return self.draw.chosen[self.number]
        if self.training and self.draw.key is not None:
            return drawn_forms(self.kinds, *self.draw.key, self.number)
        return self.kinds

    def value(self, name: str) -> Tensor | None:
        support = getattr(self, name)
        kind = self.forms()[name]
        if support is None or kind == "none":
            return None
        if isinstance(support, nn.Parameter):
            return part(support, kind)
        return support.as_form(kind)  # type: ignore[no-any-return]

    def idle(self) -> list[nn.Parameter]:
        """The parameters that the present forms leave out."""
        left_out: list[nn.Parameter] = []
        for name, kind in self.forms().items():
            support = getattr(self, name)
            if isinstance(support, nn.Parameter):
                left_out += [support] if kind == "none" else []
            elif support is not None and kind == "none":
                left_out += list(support.parameters())
            elif support is not None and support.kind == "lora" and kind != "lora":
                left_out.append(support.up)
        return left_out

    def cost(self, forms: Forms) -> int:
        """Parameters of the layer in these forms."""
        return cost(forms, self.height, self.width, self.rank, self.has_bias)

    def changed(self, weight: Tensor) -> Tensor:
        changed = super().changed(weight)
        if not (torch.is_grad_enabled() and torch.distributed.is_initialized()):
            return changed
        # with several ranks every parameter must be in the graph
        for parameter in self.idle():
            changed = changed + 0.0 * parameter.sum()
        return changed


def shared_layers(module: Any) -> list[Shared]:
    """The layers of a supernet, in order."""
    return [delta for delta in module.children() if isinstance(delta, Shared)]


def taken_forms(
    state: dict[str, Tensor], prefix: str, layers: Sequence[Shared], forms: Sequence[Forms]
) -> dict[str, Tensor]:
    """The state of the network with these forms alone. prefix: of the layers' names."""
    taken = {name: value for name, value in state.items() if not name.startswith(prefix)}
    for number, (layer, own) in enumerate(zip(layers, forms, strict=True)):
        for name in SUPPORTS:
            support = getattr(layer, name)
            kind = own[name]
            if support is None or kind == "none":
                continue
            key = f"{prefix}{number}.{name}"
            if isinstance(support, nn.Parameter):
                taken[key] = part(state[key], kind)
                continue
            taken[f"{key}.down"] = part(state[f"{key}.down"], kind)
            if kind == "lora":
                taken[f"{key}.up"] = state[f"{key}.up"]
    return {name: value.contiguous().clone() for name, value in taken.items()}
