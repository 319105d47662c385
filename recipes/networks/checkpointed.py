"""Gradient checkpointing: activations inside blocks are computed again in the backward in place of
being kept (Chen et al., arXiv 1604.06174). Less memory, about a third more time."""

from typing import Any, cast

import torch
from torch import nn

from foundation.errors import UserError, first_line
from recipes.networks.network import Network
from recipes.step.batchnorm import batch_normalizations, copied_buffers

KEY = "network.gradient_checkpointing=true"


def recompute_in_backward(network: Network) -> None:
    """Switch it on in the backbone, by timm's or transformers' own implementation. Random numbers
    of dropout are those of the forward, and running statistics are updated once.

    Raises UserError for a backbone that has no such implementation.
    """
    backbone = cast(Any, network.backbone)
    try:
        if network.kind == "text":
            _of_transformers(backbone)
        else:
            backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, ValueError) as error:
        reason = f" ({first_line(error)})" if isinstance(error, ValueError) else ""
        problem = f"{type(backbone).__name__} has no gradient checkpointing{reason}"
        raise UserError(KEY, problem, "leave it out, or take a smaller data.batch_size") from error
    network.recomputes = True
    for layer in batch_normalizations(backbone):
        layer.register_forward_pre_hook(_before)
        # always: a recomputation stops by an exception once it has what it needs
        layer.register_forward_hook(_after, always_call=True)


def _of_transformers(backbone: Any) -> None:
    if not backbone.supports_gradient_checkpointing:
        raise AttributeError
    # the reentrant form needs inputs with a gradient, which frozen embeddings have not
    options = {"use_reentrant": False}
    if hasattr(backbone, "activation_checkpointing_enable"):
        backbone.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _in_backward() -> bool:
    """Whether a forward is a recomputation: it runs inside a backward."""
    return bool(torch._C._current_graph_task_id() != -1)


def _before(layer: nn.Module, inputs: Any) -> None:
    if _in_backward():
        layer.__dict__["buffers_outside"] = layer._buffers
        layer._buffers = copied_buffers(layer)


def _after(layer: nn.Module, inputs: Any, output: Any) -> None:
    if _in_backward():
        layer._buffers = layer.__dict__.pop("buffers_outside")
