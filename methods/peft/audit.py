"""Checks, before a run starts, that what a method attached really acts in the network.

A delta that no layer reads trains without an error and changes nothing; popular libraries do not
notice it. So every method of this family is checked in every network, on two synthetic samples:

    - before training the output is unchanged (for methods that declare it);
    - each trained tensor has a finite gradient, and that of a delta filled with random numbers is
      not zero, so each changes the output;
    - merged deltas give the same output as attached ones.

Saving and loading deltas is covered by tests. A network on the meta device cannot be checked.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.weights import is_mergeable, merge
from recipes.networks.network import Network
from recipes.step import Embedded

TOLERANCE = 1e-5
REMEDY = "choose other targets, or use another method for this network"


def answer(network: Network, example: Embedded) -> Tensor:
    """All outputs of the network for the example, [2, D + ΣC]."""
    output = network(example)
    return torch.cat([output.features, *output.logits.values()], dim=1).float()


@torch.no_grad()
def snapshot(network: Network) -> Tensor | None:
    """The outputs before surgery; None on the meta device."""
    if on_meta_device(network):
        return None
    with trial_forward(network):
        return answer(network, network.example())


def audit(
    network: Network,
    key: str,
    trained: Mapping[str, nn.Parameter],
    before: Tensor | None,
    preserves: bool,
    idle: Collection[str] = (),
) -> None:
    """Raise UserError if `methods.key` does not act in the network.

    trained: its parameters by name.
    before: `snapshot`.
    idle: names of trained tensors that may be without effect.
    """
    if not trained or before is None:
        return
    with trial_forward(network):
        example = network.example()
        if preserves and _far(answer(network, example), before):
            raise UserError(
                f"methods.{key}: changes the output of {_type(network)} before training; {REMEDY}"
            )
        inside = {name: p for name, p in trained.items() if name.startswith("deltas.")}
        with _filled(inside.values()):
            # anew: where the embedding is trained, it depends on what has been filled
            example = network.example()
            acting = {name: p for name, p in trained.items() if name not in idle}
            if acting:
                _check_gradients(network, key, acting, answer(network, example))
            if key in network.deltas and is_mergeable(network.deltas[key]):
                _check_merge(network, key, example)


@contextmanager
def _filled(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Add small random numbers to parameters, for as long as the context lasts: where B is zero, A
    has no gradient."""
    generator = torch.Generator("cpu").manual_seed(2)
    with torch.no_grad():
        before = [(parameter, parameter.clone()) for parameter in parameters]
        for parameter, _ in before:
            noise = torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.add_(0.1 * noise.to(parameter.device))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)


def _far(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > TOLERANCE * b.abs().max().clamp_min(1.0))


def _type(network: Network) -> str:
    return type(network.backbone).__name__


def _check_gradients(
    network: Network, key: str, trained: Mapping[str, nn.Parameter], filled: Tensor
) -> None:
    generator = torch.Generator("cpu").manual_seed(1)
    direction = torch.randn(filled.shape, generator=generator, device="cpu").to(filled.device)
    gradients = torch.autograd.grad(
        (filled * direction).sum(), list(trained.values()), allow_unused=True
    )
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is None:
            raise UserError(f"methods.{key}: {_type(network)} never uses '{name}'; {REMEDY}")
        if not gradient.isfinite().all():
            raise UserError(
                f"methods.{key}: the gradient of '{name}' is not finite in {_type(network)}; "
                f"{REMEDY}"
            )
        # a key's bias shifts all scores equally, which softmax ignores, so only what was added must
        # have an effect
        if name.startswith("deltas.") and not gradient.any():
            raise UserError(
                f"methods.{key}: '{name}' has no effect in {_type(network)}: a frozen layer after "
                "it is zero, which happens with random weights; set network.pretrained or "
                "network.checkpoint, or choose other targets"
            )


@torch.no_grad()
def _check_merge(network: Network, key: str, example: Embedded) -> None:
    attached = answer(network, example)
    restore = merge(network, key)
    merged = answer(network, example)
    restore()
    if _far(attached, merged):
        raise UserError(
            f"methods.{key}: merging it into the weights of {_type(network)} changes the output; "
            f"{REMEDY}"
        )
