"""Gates: numbers in (0, 1), one for each sample, that weigh what a method adds."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.peft.prefixes import Masks, Widened


class Tokens:
    """Which tokens of a text encoder's present input are real: the hooks of the encoder note its
    mask."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def note(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.mask = kwargs.get("attention_mask")

    def forget(self, module: nn.Module, args: Any, output: Any) -> None:
        self.mask = None

    def real(self, x: Tensor) -> Tensor | None:
        """The mask of x [N, T, d], [N, T]; None if all tokens are real. Tokens that were inserted
        behind the noted ones are real, and padding is on the right."""
        mask = self.mask
        more = 0 if mask is None else x.shape[1] - mask.shape[1]
        if mask is None or not more:
            return mask
        return torch.cat([mask.new_ones(len(mask), more), mask], dim=1)


def gate_mean(each: Tensor, mask: Tensor | None) -> Tensor:
    """Σ_t m_t g_t / Σ_t m_t. each: [N, T, 1], mask: [N, T] or None, result: [N, 1, 1]."""
    if mask is None:
        return each.mean(1, keepdim=True)
    real = mask.unsqueeze(-1).to(each.dtype)
    return (each * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)


class Gate(nn.Module):
    """G(x) = mean_t sigmoid(w·x_t + b) over the real tokens, in float32. x: [N, T, d], result:
    [N, 1, 1], of the type of x. Without weight decay."""

    gate_parameters = ("linear.weight", "linear.bias")

    def __init__(self, width: int, tokens: Tokens):
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        each = torch.sigmoid(self.linear(x).float())
        return gate_mean(each, self.tokens.real(x)).to(x.dtype)


class Weighted(Widened):
    """(1 - g) Attn(q, K, V) + g Attn(q, [P_k; K], [P_v; V]) = (1 - gλ) Attn(q, K, V) + gλ Attn(q,
    P_k, P_v), λ the attention that the rows take. gate: g, [N, 1, 1, 1]."""

    def __init__(self, rows: Tensor, masks: Masks, gate: Tensor):
        super().__init__(rows, masks)
        self.gate = gate

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        seen = super().__torch_function__(func, types, args, kwargs)
        if func is not F.scaled_dot_product_attention:
            return seen
        plain = func(*args, **(kwargs or {}))
        return torch.lerp(plain, seen, self.gate.to(seen.dtype))
