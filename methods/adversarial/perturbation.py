"""What training methods share: the labeled input under attack, and the mode in which the network is
attacked."""

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from methods.adversarial.attacks.losses import (
    Logits,
    Loss,
    Model,
    Objective,
    counting,
    fixed,
    objective,
)
from recipes.contract import Context, Method
from recipes.networks.network import eval_mode
from recipes.step import Embedded, Input, Step

# x and δ stay in float32 under autocast; a network stored in half precision would round them to
# steps of a grey level
PRECISIONS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")
# the attack comes last: it sees the mixed picture with the mixed target
LAST = ("mixes_inputs", "soft_targets")


def moved(embedded: Embedded, delta: Tensor) -> Embedded:
    """x + δ, with gradient to whatever made x (the table of word embeddings)."""
    return Embedded(embedded.x + delta.to(embedded.x.dtype), embedded.mask)


class NotFinite(nn.Module):
    """How many entries of gradients were not finite, of this process since its start; it is not
    part of checkpoints."""

    entries: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros((), dtype=torch.int64), persistent=False)

    def add(self, counts: list[Tensor]) -> None:
        self.entries += sum(counts)


class Attacking(Method):
    """Base of methods that attack the labeled input: δ is crafted once a step, against the weights
    at its start; a replayed step (SAM, AWP) meets the same δ. Entries of gradients that are not
    finite are taken as 0 and counted: the end of the run warns of them."""

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = NotFinite()

    @abstractmethod
    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        """δ of the input's shape, detached, within the threat."""

    def delta(self, step: Step, context: Context) -> Tensor:
        if not step.replay:
            with eval_mode(context.network), fixed(context.network), counting() as counts:
                step.scratch[self.key] = self.craft(step.inputs["labeled"], step, context)
            cast(NotFinite, self.module(context)).add(counts)
        return cast(Tensor, step.scratch[self.key])

    def save_artifacts(self, folder: Path, context: Context) -> None:
        count = int(cast(NotFinite, self.module(context)).entries)
        if count:
            warnings.warn(
                f"methods.{self.key}: {count} entries of the attack's gradients were not finite "
                "and were taken as 0; "
                "samples without a finite gradient were not attacked",
                stacklevel=2,
            )


def model_of(context: Context, embedded: Embedded) -> Model:
    """The student as an attack sees it: x -> raw logits by task."""

    def logits(x: Tensor) -> Logits:
        return context.extra_forward(Embedded(x, embedded.mask)).logits

    return logits


def labels_of(entry: Input, context: Context, loss: Loss = "ce") -> Objective:
    """The loss to raise: plain, on raw logits, summed over tasks."""
    return objective(model_of(context, entry.embedded), entry.targets, loss)
