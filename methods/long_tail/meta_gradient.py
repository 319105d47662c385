"""The gradient of a loss after one step of SGD to the weights of the samples in that step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad, grad_and_value, jvp

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class SGDStep:
    """One step of torch's SGD for one parameter: g ← g + λθ; m ← μm + (1 - d) g, at first m = g;
    θ' = θ - η m, or θ - η (g + μm) with Nesterov.

    buffer: m so far; None before the first step.
    """

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    decay: float = 0.0
    nesterov: bool = False
    buffer: Tensor | None = None

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> "SGDStep":
        """The next step of an optimizer. One that has no momentum has neither decay here: with
        `sgd_plain` only the rate is used."""
        for group in optimizer.param_groups:
            if any(entry is parameter for entry in group["params"]):
                return cls(
                    lr=group["lr"],
                    momentum=group.get("momentum", 0.0),
                    dampening=group.get("dampening", 0.0),
                    decay=group.get("weight_decay", 0.0),
                    nesterov=group.get("nesterov", False),
                    buffer=optimizer.state.get(parameter, {}).get("momentum_buffer"),
                )
        return cls(lr=0.0)  # not trained

    @property
    def kept(self) -> float:
        """∂m/∂g."""
        return 1.0 if self.buffer is None else 1.0 - self.dampening

    @property
    def slope(self) -> float:
        """∂θ'/∂g."""
        if not self.momentum:
            return -self.lr
        return -self.lr * (1.0 + self.momentum * self.kept if self.nesterov else self.kept)

    def moved(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """θ'."""
        gradient = gradient + self.decay * theta
        if not self.momentum:
            return theta - self.lr * gradient
        velocity = gradient
        if self.buffer is not None:
            velocity = self.momentum * self.buffer + self.kept * gradient
        if self.nesterov:
            velocity = gradient + self.momentum * velocity
        return theta - self.lr * velocity


def sample_slopes(
    losses: Callable[[Weights], Tensor],
    meta_loss: Callable[[Weights], Tensor],
    theta: Weights,
    rules: Mapping[str, SGDStep],
    mean: Callable[[Tensor], Tensor] = lambda value: value,
    ranks: int = 1,
) -> tuple[Tensor, Tensor]:
    """∂ meta_loss(θ') / ∂w_b at w = 1, [B], and meta_loss(θ'), for θ' one step on
    (1/B) Σ_b w_b l_b(θ).

    A weight w_b enters θ' through the gradient alone, which is linear in it, so the slope is
    (∂θ'/∂g / B) ⟨∇meta_loss(θ'), ∇l_b(θ)⟩: for all samples one forward-mode derivative of the
    losses along ∇meta_loss(θ'), and no second derivative.

    losses: θ -> [B]. mean: over ranks, of which each has its B of the batch.
    """
    gradient = grad(lambda weights: losses(weights).mean())(theta)
    ahead = {name: rules[name].moved(v, mean(gradient[name])) for name, v in theta.items()}
    towards, loss = grad_and_value(meta_loss)(ahead)
    along = {name: rules[name].slope * mean(towards[name]) for name in theta}
    slopes = jvp(losses, (theta,), (along,))[1]
    return slopes / (len(slopes) * ranks), loss
