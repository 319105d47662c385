"""τ-normalized classifier. Kang et al., Decoupling Representation and Classifier for Long-Tailed
Recognition, ICLR 2020, arXiv 1910.09217."""

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.contract import Clock, Context, Declaration, Method, Seen, Survey, Table
from recipes.networks.network import Network

GRID = tuple(round(0.1 * i, 1) for i in range(21))  # 0, .1 … 2, as the authors search
BLOCK = 4096  # samples whose logits are scaled at once


def normalised(logits: Tensor, head: nn.Linear, tau: Tensor | float, drop_bias: bool) -> Tensor:
    """z'_c = (w_c / ‖w_c‖^τ) · x (+ b_c), [N, C], from the head's logits z_c = w_c · x + b_c."""
    bias = head.bias.float() if head.bias is not None else torch.zeros_like(logits[0])
    norm = head.weight.float().norm(dim=1).clamp_min(1e-12)
    scaled = (logits.float() - bias) * norm**-tau
    return scaled if drop_bias else scaled + bias


def linear_head(network: Network, task: str) -> nn.Linear:
    """The head of a task, whose weight `TauNorm.build` has checked to be a matrix."""
    return cast(nn.Linear, network.heads[task])


def best_tau(logits: Tensor, target: Tensor, head: nn.Linear, drop_bias: bool) -> Tensor:
    """The τ on the grid with the best mean accuracy over the classes that occur, the smallest of
    equal ones. logits: [M, C] of the head. target: [M], -1 without label."""
    known = target >= 0
    logits, target = logits[known], target[known]
    right = logits.new_zeros(len(GRID), logits.shape[1])
    for rows, labels in zip(logits.split(BLOCK), target.split(BLOCK), strict=True):
        for i, tau in enumerate(GRID):
            predicted = normalised(rows, head, tau, drop_bias).argmax(1)
            right[i].index_add_(0, labels, (predicted == labels).float())
    seen = torch.bincount(target, minlength=logits.shape[1])
    best = (right / seen.clamp_min(1)).sum(1).argmax()
    return right.new_tensor(GRID)[best]


class Chosen(nn.Module):
    """The τ used for one task."""

    tau: Tensor

    def __init__(self, tau: float):
        super().__init__()
        self.register_buffer("tau", torch.tensor(tau))


def logits_and_targets(seen: Seen) -> dict[str, Tensor]:
    """The rows of the survey, by task."""
    rows = {f"logits of {task}": seen.logits[task] for task in seen.targets}
    return rows | {f"targets of {task}": values for task, values in seen.targets.items()}


class TauNorm(Method):
    """w_c ← w_c / ‖w_c‖^τ at prediction, after training without changes: under SGD rare classes
    have weights of small norm, which this compensates. (Under Adam-like optimizers norms do not
    follow class counts: expect little.)

    Heads must be linear. The raw network is evaluated as well.

    tau: exponent τ, 0 to 2; null: the best of 0, 0.1 … 2 on the validation part (paper). The
        criterion is balanced accuracy, never on the test part; τ is chosen before every validation
        and after the last step, with another pass over the validation data, and saved in every
        checkpoint.
    drop_bias: remove the heads' biases; true (authors' code). τ = 0 is the identity only with
        false.
    """

    neutral = {"tau": 0}

    def __init__(
        self, tau: Annotated[float, Field(ge=0, le=2)] | None = None, drop_bias: bool = True
    ):
        self.tau = tau
        self.drop_bias = drop_bias

    def declare(self) -> Declaration:
        search = Survey("search", "val", logits_and_targets, Clock.before_validation())
        return Declaration(
            slots=("prior_correction",),
            refuses={
                "nonlinear_heads": (
                    "it scales the rows of linear heads on the features; leave one out, or use "
                    "posthoc_logit_adjustment"
                )
            },
            surveys=(search,) if self.tau is None else (),
        )

    def build(self, context: Context) -> None:
        if self.tau is None and not context.sizes.get("val"):
            raise UserError(
                f"methods.{self.key}.tau: null chooses τ on the validation part, and there is "
                "none; give a number, e.g. 0.7, or data.val_fraction=0.1"
            )
        chosen = nn.ModuleDict()
        for name in context.tasks:
            weight = getattr(context.network.heads[name], "weight", None)
            if getattr(weight, "ndim", 0) != 2:
                raise UserError(
                    f"methods.{self.key}: the head of task '{name}' is not linear; leave one out"
                )
            chosen[name] = Chosen(self.tau or 0.0)
        context.method_modules[self.key] = chosen

    def infer(self, logits: Tensor, task: str, context: Context) -> Tensor:
        tau = context.method_modules[self.key][task].tau
        return normalised(logits, linear_head(context.reported(), task), tau, self.drop_bias)

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        for task, chosen in self.module(context).items():
            logits = table[f"logits of {task}"].to(context.device, torch.float32)
            targets = table[f"targets of {task}"].to(context.device)
            head = linear_head(context.reported(), task)
            with torch.no_grad():
                chosen.tau.copy_(best_tau(logits, targets, head, self.drop_bias))
