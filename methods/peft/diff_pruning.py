"""Diff Pruning. Guo, Rush and Kim, Parameter-Efficient Transfer Learning with Diff Pruning, ACL
2021, arXiv 2012.07463."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foundation.randomness import generator
from foundation.types import Scale, ShareBelowOne, Weight
from methods.peft.sparse_store import read_sparse, write_sparse
from methods.peft.surgeon import PEFTMethod, averaged
from recipes.contract import Context, Declaration
from recipes.networks.network import Network
from recipes.step import Step

LOW, HIGH = -1.5, 1.5  # l and r, between which the gate is stretched before it is cut to [0, 1]
EDGE = 1e-4  # u is drawn from [1e-4, 1 - 1e-4] (authors' code)
FIXED = 1e3  # |α| of a gate that is 0 or 1 for every u, with a gradient of zero


# -- mathematics -----------------------------------------------------------------------------------
def hard_concrete(alpha: Tensor, u: Tensor | None = None) -> Tensor:
    """z = min(1, max(0, s (r - l) + l)), s = σ(log u - log(1-u) + α); without u the gate of
    evaluation, s = σ(α)."""
    location = alpha if u is None else alpha + torch.logit(u)
    return (torch.sigmoid(location) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)


def open_probability(alpha: Tensor) -> Tensor:
    """P(z > 0) = σ(α - log(-l/r)); the logarithm is 0 here, as l = -r."""
    return torch.sigmoid(alpha)


def expected_open(
    alphas: Sequence[Tensor], groups: Sequence[Tensor | None], product: bool
) -> Tensor:
    """The expected number of open gates: Σ_g Σ_j P(z_j > 0) P(z_g > 0), or, without `product`, the
    authors' code's Σ_j P(z_j > 0) + Σ_g P(z_g > 0). alphas: one tensor a group; groups: α_g, one
    number each, or None for groups without a gate."""
    total = torch.zeros((), device=alphas[0].device)
    for alpha, group in zip(alphas, groups, strict=True):
        count = open_probability(alpha).sum()
        if group is not None:
            share = open_probability(group)
            count = count * share if product else count + share
        total = total + count
    return total


def largest(values: Sequence[Tensor], share: float) -> list[Tensor]:
    """Masks of the `share` largest entries by magnitude over all tensors, one at least; never of a
    zero."""
    flat = torch.cat([value.abs().flatten() for value in values])
    count = max(int(share * len(flat)), 1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask.index_fill_(0, flat.topk(count).indices, True)
    mask &= flat > 0
    parts = mask.split([value.numel() for value in values])
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


# -- modules ---------------------------------------------------------------------------------------
class Noise:
    """What the gates of a step are drawn from; None: the gates of evaluation."""

    key: tuple[object, ...] | None = None


class Diff(nn.Module):
    """δ = z ⊙ z_g ⊙ w of one parameter, whose group it is. w starts at zero.

    target: the parameter's name in the backbone. number: its place, which its draws depend on.
    like: the parameter. start: α at the start. grouped: whether there is z_g.
    """

    gate_parameters = ("alpha", "group")

    def __init__(
        self,
        target: str,
        number: int,
        like: Tensor,
        start: float,
        grouped: bool,
        noise: Noise,
    ):
        super().__init__()
        self.target = target
        self.number = number
        self.noise = noise
        self.w = nn.Parameter(torch.zeros_like(like, dtype=torch.float32))
        self.alpha = nn.Parameter(torch.full_like(like, start, dtype=torch.float32))
        self.group = None
        if grouped:
            self.group = nn.Parameter(torch.tensor(start, device=like.device))

    def gates(self) -> Tensor:
        """z ⊙ z_g; drawn in training, equal for all forwards of a step."""
        key = self.noise.key if self.training else None
        if key is None:
            return hard_gates(self)
        source = generator(*key, self.number, device=self.alpha.device)
        each = hard_concrete(self.alpha, drawn(self.alpha, source))
        if self.group is None:
            return each
        return each * hard_concrete(self.group, drawn(self.group, source))

    def forward(self) -> Tensor:
        return self.gates() * self.w

    @torch.no_grad()
    def fix(self, mask: Tensor) -> None:
        """δ keeps its values inside the mask and is zero outside: gates are 0 or 1 from now on."""
        self.w.copy_(hard_gates(self) * self.w * mask)
        self.alpha.copy_(torch.where(mask, FIXED, -FIXED))
        if self.group is not None:
            self.group.fill_(FIXED)


def drawn(like: Tensor, source: torch.Generator) -> Tensor:
    """u for every gate."""
    u = torch.rand(like.shape, generator=source, device=like.device)
    return u.clamp(EDGE, 1 - EDGE)


def hard_gates(diff: Diff) -> Tensor:
    """The gates of evaluation."""
    each = hard_concrete(diff.alpha)
    return each if diff.group is None else each * hard_concrete(diff.group)


def hard_delta(diff: Diff) -> Tensor:
    """δ in evaluation."""
    return hard_gates(diff) * diff.w


class Overlay(nn.Module):
    """The parametrisation θ → θ + δ. δ is registered elsewhere in the network, so it is stored in a
    tuple, which torch does not register."""

    def __init__(self, diff: Diff):
        super().__init__()
        self.diff = (diff,)

    def forward(self, parameter: Tensor) -> Tensor:
        return parameter + self.diff[0]().to(parameter.dtype)


def diffs_of(network: Network, key: str) -> list[Diff]:
    return [diff for diff in network.deltas[key].children() if isinstance(diff, Diff)]


def owner(backbone: nn.Module, target: str) -> tuple[nn.Module, str]:
    """The module of a parameter, and the parameter's name in it."""
    path, _, name = target.rpartition(".")
    return backbone.get_submodule(path), name


# -- the method ------------------------------------------------------------------------------------
class DiffPruning(PEFTMethod):
    """θ = θ₀ + δ, δ = z ⊙ z_g ⊙ w: a change of every weight of the network that is pruned to the
    few entries that matter.

    Every entry has a hard-concrete gate z with parameter α, every tensor one more, z_g: u ~ U(0,
    1), s = σ(log u - log(1-u) + α), z = min(1, max(0, 3 s - 1.5)). u is drawn once a step, equal on
    all ranks; in evaluation s = σ(α). The loss term is the expected share of open gates. Then the
    `share` largest entries of δ by magnitude are kept, and for the last `fixed` part of the run
    only they are trained, without gates, with the optimizer's state kept (paper: a new stage,
    as in `recipe=diff_pruning`). Heads have no gates. w, α and their moments need six times the
    memory of the network. The file of the delta has the kept entries alone. It changes every
    weight, so it refuses other changes. Learning rates: those of full fine-tuning, for w.

    share: entries that are kept, a share of all weights, above 0; 0.005 (paper).
    penalty: weight of the expected share of open gates, at least 0; 42 (the paper's 1.25e-7 a
        weight, times BERT-large's 335 million).
    fixed: last part of the run in which the choice is fixed, in [0, 1); 0.5; null: none, as in the
        stages of `recipe=diff_pruning`.
    grouped: a gate for every tensor beside those of its entries; true (paper's structured form).
    group_penalty: the term is of the `product` of both probabilities (paper) or of their `sum`
        (authors' code).
    start: α at the start; 5 (authors' code): gates are open with probability 0.993.
    gate_lr: learning rate of α, above 0, constant; 0.1 (authors' code).
    load: delta of a finished run, whose entries are trained further; null: none.
    """

    declaration = Declaration(
        tags=("delta",),
        refuses={"delta": "it changes every weight of the network, and its choice is among all"},
    )

    def __init__(
        self,
        share: Annotated[float, Field(gt=0, le=1)] = 0.005,
        penalty: Weight = 42.0,
        fixed: ShareBelowOne | None = 0.5,
        grouped: bool = True,
        group_penalty: Literal["product", "sum"] = "product",
        start: float = 5.0,
        gate_lr: Scale = 0.1,
        load: str | None = None,
    ):
        self.share = share
        self.penalty = penalty
        self.fixed = fixed
        self.grouped = grouped
        self.group_penalty = group_penalty
        self.start = start
        self.gate_lr = gate_lr
        self.load = load

    def attach(self, network: Network) -> None:
        noise = Noise()
        diffs = nn.ModuleList()
        named = [
            (name, parameter)
            for name, parameter in network.backbone.named_parameters()
            if name not in network.unused
        ]
        for number, (name, parameter) in enumerate(named):
            diff = Diff(name, number, parameter, self.start, self.grouped, noise)
            diffs.append(diff)
            module, own_name = owner(network.backbone, name)
            parametrize.register_parametrization(module, own_name, Overlay(diff))
        network.deltas[self.key] = diffs

    def may_be_idle(self, name: str) -> bool:
        # gates start where they are cut to 1, and keys' biases have no effect
        return not name.endswith(".w")

    # -- in training -------------------------------------------------------------------------------
    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        gates = []
        for diff in diffs_of(context.network, self.key):
            gates += [gate for gate in (diff.alpha, diff.group) if gate is not None]
        return [{"params": gates, "lr": self.gate_lr, "weight_decay": 0.0, "constant": True}]

    def prepare(self, step: Step, context: Context) -> None:
        # all diffs of the network share one noise
        noise = diffs_of(context.network, self.key)[0].noise
        noise.key = (context.seed, step.progress.step, self.key)

    def terms(self, step: Step, context: Context) -> None:
        diffs = diffs_of(context.network, self.key)
        alphas = [diff.alpha for diff in diffs]
        groups = [diff.group for diff in diffs]
        count = expected_open(alphas, groups, self.group_penalty == "product")
        size = sum(alpha.numel() for alpha in alphas)
        step.term("sparsity", count / size, weight=self.penalty)

    def last_gated(self, total: int) -> int:
        """The optimizer step after which the choice is fixed; 0: it never is."""
        return 0 if self.fixed is None else max(round((1 - self.fixed) * total), 1)

    @torch.no_grad()
    def after_step(self, step: Step, context: Context) -> None:
        if step.progress.step + 1 != self.last_gated(context.total_steps):
            return
        teachers = [] if context.teacher is None else [context.teacher.network]
        self.project([context.network, *teachers])

    @torch.no_grad()
    def project(self, networks: Sequence[Network]) -> None:
        """Keep the largest entries of the first network, in all of them."""
        masks = largest([hard_delta(d) for d in diffs_of(networks[0], self.key)], self.share)
        for network in networks:
            for diff, mask in zip(diffs_of(network, self.key), masks, strict=True):
                diff.fix(mask)

    # -- files and export --------------------------------------------------------------------------
    def save_artifacts(self, folder: Path, context: Context) -> None:
        network = averaged(context) or context.network
        values = {diff.target: hard_delta(diff) for diff in diffs_of(network, self.key)}
        write_sparse(folder / "delta.safetensors", network, values)

    @torch.no_grad()
    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        diffs = diffs_of(network, self.key)
        shapes = {diff.target: diff.w.shape for diff in diffs}
        values = read_sparse(path, network, shapes, option=f"methods.{self.key}.load")
        for diff, value in zip(diffs, values, strict=True):
            if not diff.w.is_meta:
                diff.w.copy_(value)
                diff.alpha.fill_(FIXED)
                diff.fix((value != 0).to(diff.w.device))

    @torch.no_grad()
    def merge(self, network: Network) -> None:
        for diff in diffs_of(network, self.key):
            module, name = owner(network.backbone, diff.target)
            before = module.get_parameter(f"parametrizations.{name}.original")
            value = (before.float() + hard_delta(diff)).to(before.dtype)
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
        del network.deltas[self.key]
