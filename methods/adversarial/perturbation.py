"""The base of training methods that attack the labeled input, with the network in evaluation
mode."""

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.losses import (
    Logits,
    Loss,
    Model,
    Objective,
    counting,
    fixed,
    objective,
)
from methods.adversarial.attacks.threat import Norm, Threat
from recipes.contract import Context, Method
from recipes.contract.environment import Environment
from recipes.networks.network import eval_mode
from recipes.step import Embedded, Input, Step
from recipes.step.step import Net

# under autocast x and δ are float32; a network with parameters in half precision would round them
# to about one gray level
PRECISIONS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")
# the attack comes last: it sees the mixed picture with the mixed target
LAST = ("mixes_inputs", "soft_targets")


def add_delta(embedded: Embedded, delta: Tensor) -> Embedded:
    """x + δ, with a gradient to the parameters behind x (the table of word embeddings)."""
    return Embedded(embedded.x + delta.to(embedded.x.dtype), embedded.mask)


class NotFinite(nn.Module):
    """Number of gradient entries that were not finite, in this process since its start; not part of
    checkpoints."""

    entries: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros((), dtype=torch.int64), persistent=False)

    def add(self, counts: list[Tensor]) -> None:
        self.entries += sum(counts)


class Attacking(Method):
    """Base of methods that attack the labeled input: δ is crafted once per step, against the
    weights at its start; a replayed step (SAM, AWP) has the same δ. Gradient entries that are not
    finite are replaced by 0 and counted; a warning with their number is printed at the end."""

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = NotFinite()

    @abstractmethod
    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        """δ of the input's shape, detached, within the threat."""

    def delta(self, step: Step, context: Context) -> Tensor:
        """δ of this step's labeled input."""
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
                "and were replaced by 0; samples without a finite gradient were not attacked",
                stacklevel=2,
            )


class ByAttack(Attacking):
    """Base of methods whose perturbation comes from any attack of `attacks/`.

    The ball is the method's, the algorithm the attack's. own: the attack of the paper, made of the
    method's settings; attack: the one chosen in its place.
    """

    norm: Norm
    eps: float

    def __init__(self, own: Attack, attack: Attack | None):
        self.chosen = attack
        self.attack = attack or own

    def check(self, environment: Environment) -> None:
        key = f"methods.{self.key}.attack"
        if not isinstance(self.attack, Attack):
            problem = f"'{type(self.attack).__name__}' is no attack"
            raise UserError(key, problem, "expected a subclass of methods.adversarial's Attack")
        if not self.attack.in_training:
            problem = f"{type(self.attack).__name__} trains a proxy of one fixed network"
            raise UserError(key, problem, f"give {key}.run=RUN, a run whose network is the proxy")
        if self.chosen is not None:
            self.attack.check(key, self.norm, environment)

    def perturbation(
        self,
        entry: Input,
        step: Step,
        context: Context,
        value: Objective,
        start: Tensor | None = None,
        model: Model | None = None,
    ) -> Tensor:
        """δ that raises `value` within the ball. start: δ of the first point, in place of the
        attack's own. model: that is attacked; None: the student."""
        x = entry.embedded.x.detach().float()
        model = model or model_of(context, entry.embedded)
        victim = Victim(model, x, entry.targets, value)
        threat = Threat.around(entry.embedded, self.norm, self.eps)
        return self.attack(victim, threat, self.draws(entry, step), start) - x

    def draws(self, entry: Input, step: Step) -> Draws:
        """Random numbers of this step by purpose, one row per sample of the input."""
        return lambda purpose: step.randomness.draw(f"{self.key}/{purpose}", entry.size)


def model_of(context: Context, embedded: Embedded, network: Net = "student") -> Model:
    """The attacked network: x -> raw logits by task."""

    def logits(x: Tensor) -> Logits:
        return context.extra_forward(Embedded(x, embedded.mask), network).logits

    return logits


def labels_objective(entry: Input, context: Context, loss: Loss = "ce") -> Objective:
    """The loss that the attack raises: on raw logits, without weights, summed over tasks."""
    return objective(model_of(context, entry.embedded), entry.targets, loss)
