"""Proof, before a run begins, that what a method attached is really in the network.

A delta that nothing reads trains in silence and changes nothing; popular libraries let that pass.
So every method of this family, in every network, is tried on two made-up samples:

    - while nothing is trained the output is what it was (methods that claim it);
    - each trained tensor has a finite gradient, and that of a delta, filled with random numbers, is
      not zero: so each moves the output;
    - deltas that can be merged give the same output merged.

That saved deltas come back is a test's to show. The plan's sketch of the network cannot be tried.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.freezing import on_meta_device, trial_forward
from methods.peft.weights import is_mergeable, merge
from recipes.networks.network import Network
from recipes.step import Embedded

TOLERANCE = 1e-5
REMEDY = "choose other targets, or leave the method out for this network"


def answer(network: Network, example: Embedded) -> Tensor:
    """All that the network says of the example, [2, D + ΣC]."""
    output = network(example)
    return torch.cat([output.features, *output.logits.values()], dim=1).float()


@torch.no_grad()
def snapshot(network: Network) -> Tensor | None:
    """What it says before surgery; a sketch says nothing."""
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
) -> None:
    """Raise UserError where `methods.key` is not at work. trained: its parameters by name. before:
    `snapshot`."""
    if not trained or before is None:
        return
    with trial_forward(network):
        example = network.example()
        if preserves and _far(answer(network, example), before):
            raise UserError(
                f"methods.{key}: changes {_type(network)} before it has learnt anything; {REMEDY}"
            )
        inside = {name: p for name, p in trained.items() if name.startswith("deltas.")}
        with _filled(inside.values()):
            _check_gradients(network, key, trained, answer(network, example))
            if key in network.deltas and is_mergeable(network.deltas[key]):
                _check_merge(network, key, example)


@contextmanager
def _filled(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Small random numbers in place of what they hold: deltas that start at zero would hide each
    other."""
    generator = torch.Generator("cpu").manual_seed(2)
    with torch.no_grad():
        before = [(parameter, parameter.clone()) for parameter in parameters]
        for parameter, _ in before:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, device="cpu").to(
                parameter.device
            )
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
                f"methods.{key}: '{name}' gets a gradient that is not finite in {_type(network)}; "
                f"{REMEDY}"
            )
        # a key's bias shifts all scores alike, which softmax ignores: only what was added must show
        if name.startswith("deltas.") and not gradient.any():
            raise UserError(
                f"methods.{key}: '{name}' has no effect in {_type(network)}: a frozen layer after "
                "it is zero, as "
                "fresh weights may have it; set network.pretrained or network.checkpoint, or "
                "choose other targets"
            )


@torch.no_grad()
def _check_merge(network: Network, key: str, example: Embedded) -> None:
    apart = answer(network, example)
    restore = merge(network, key)
    merged = answer(network, example)
    restore()
    if _far(apart, merged):
        raise UserError(
            f"methods.{key}: merged into the weights of {_type(network)} it says something else; "
            f"{REMEDY}"
        )
