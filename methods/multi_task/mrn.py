"""Multilinear relationship networks. Long, Cao, Wang and Yu, Learning Multiple Tasks with
Multilinear Relationship Networks, NeurIPS 2017, arXiv 1506.02117."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.devices import precise
from foundation.errors import UserError
from foundation.files import write_json
from foundation.types import Count, Scale, Share, Weight
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import Network, linear_head
from recipes.step import Step

Mode = Literal["feature", "class", "task"]
ScaleRule = Literal["fixed", "free", "code"]
MODES: tuple[Mode, ...] = ("task", "class", "feature")  # of W [T, D2, D1]
EPS = 1e-5  # on the diagonal of a covariance, as in the authors' code
LARGEST_TRACE = 3000.0  # of a precision, scale `code`


# -- the mathematics -------------------------------------------------------------------------------
def mode_products(w: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
    """W ×₁ F₁ ×₂ F₂ ×₃ F₃ for symmetric factors by mode of W [T, D2, D1]; None: the identity. The
    Kronecker product is never built."""
    task, of_class, feature = factors
    if feature is not None:
        w = w @ feature
    if of_class is not None:
        w = of_class @ w
    if task is not None:
        w = (task @ w.flatten(1)).view_as(w)
    return w


def quadratic_form(w: Tensor, precisions: Sequence[Tensor]) -> Tensor:
    """vec(W)ᵀ (S₁ ⊗ S₂ ⊗ S₃)⁻¹ vec(W), a scalar. precisions: S⁻¹ by mode."""
    return (w * mode_products(w, precisions)).sum()


def unfolded(w: Tensor, mode: int) -> Tensor:
    """W_(k), [D_k, D / D_k]."""
    return w.movedim(mode, 0).flatten(1)


def covariance(w: Tensor, precisions: Sequence[Tensor], mode: int) -> Tensor:
    """(D_k / D) W_(k) (⊗_{j≠k} S_j)⁻¹ W_(k)ᵀ, [D_k, D_k]: the maximum of the prior's density over
    S_k, the other factors fixed."""
    others: list[Tensor | None] = list(precisions)
    others[mode] = None
    weighted = mode_products(w, others)
    size = w.shape[mode]
    return unfolded(w, mode) @ unfolded(weighted, mode).T * (size / w.numel())


def shrunk(s: Tensor, rho: float, eps: float) -> Tensor:
    """(1 - ρ) S + ρ (tr S / D_k) I + ε I."""
    identity = torch.eye(len(s), dtype=s.dtype, device=s.device)
    return (1 - rho) * s + (rho * s.trace() / len(s) + eps) * identity


def next_factor(
    w: Tensor, precisions: Sequence[Tensor], mode: int, rho: float, rule: ScaleRule
) -> Tensor:
    """S_k of the next round. rule `fixed`: its trace is D_k; `free`: the formula; `code`: without
    the factor D_k / D."""
    s = covariance(w, precisions, mode)
    if rule == "code":
        s = s * (w.numel() / len(s))
    s = shrunk(s, rho, EPS)
    return s * (len(s) / s.trace()) if rule == "fixed" else s


def inverse(s: Tensor) -> Tensor:
    """S⁻¹ of a positive definite S; not finite numbers where it is not."""
    root, failed = torch.linalg.cholesky_ex(s)
    return torch.where(failed == 0, torch.cholesky_inverse(root), torch.nan)


# -- the method ------------------------------------------------------------------------------------
class RelatedHead(nn.Module):
    """Bottleneck, ReLU and classifier of one task: [N, D] -> [N, C]; without a width the classifier
    alone."""

    def __init__(self, features: int, width: int | None, classes: int):
        super().__init__()
        self.bottleneck = linear_head(features, width) if width else None
        self.classifier = linear_head(width or features, classes)

    @property
    def bias(self) -> nn.Parameter:
        """Of the classifier, where methods that start with rare classes look for it."""
        return self.classifier.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.bottleneck is not None:
            x = self.bottleneck(x).relu()
        return self.classifier(x)  # type: ignore[no-any-return]


class Precisions(nn.Module):
    """S⁻¹ of one layer by mode: task [T, T], class [D2, D2], feature [D1, D1]. They start as the
    identity."""

    def __init__(self, shape: Sequence[int], prior_scale: float):
        super().__init__()
        for mode, size in zip(MODES, shape, strict=True):
            scale = prior_scale if mode == "task" else 1.0
            self.register_buffer(mode, torch.eye(size) / scale)

    def by_mode(self) -> list[Tensor]:
        return [self.get_buffer(mode) for mode in MODES]


class MRN(Method):
    """Σ_t L_t + λ/(2N) Σ_l vec(W_l)ᵀ (S₁ ⊗ S₂ ⊗ S₃)⁻¹ vec(W_l): a tensor-normal prior on the tasks'
    own layers, whose covariances over features, classes and tasks are learnt from the weights.

    When tasks are related, partly or in groups, and have few samples each: related tasks pull each
    other's heads together, unrelated ones do not. Every task gets a bottleneck with ReLU and a
    classifier; layers of equal shape in all tasks are stacked to W [T, D2, D1]. Classifiers of
    different numbers of classes cannot be stacked and have no prior.

    Every `update_every` steps S_k ← (D_k/D) W_(k) (⊗_{j≠k} S_j)⁻¹ W_(k)ᵀ, shrunk to (1 - ρ) S_k + ρ
    (tr S_k/D_k) I, one factor after the other, in float64. The loss's log-determinants have no
    gradient and are left out. Taken literally the alternation collapses, W → 0 with S → 0, so we
    fix the traces; only the product of the factors means anything. The penalty belongs to no task
    and is not weighted by other methods; its layers have no weight decay, which it stands for. N:
    labeled samples, since our losses are means. The learnt correlations of tasks are saved as
    task_correlations.json beside the checkpoints.

    trade_off: λ, at least 0; 1 (authors' code); with scale `fixed`, 1/λ and prior_scale are one
        knob.
    bottleneck: width of each task's own layer before its classifier, at least 1; 256 (paper); null:
        none (authors' code).
    learn: factors that are learnt, of feature, class and task; null: all (paper). `[task]`
        (authors' code) is better where classes and features have no structure or data are few.
    update_every: steps between two updates of the factors, at least 1; 100 (authors' code).
    shrinkage: ρ, 0 to 1; 0.1 (ours).
    prior_scale: factor of S₃, above 0; 1.
    scale: of the factors: `fixed` (ours), `free` or `code`. Traces D_k, the formula, or the formula
        without D_k/D and the precision's trace at most 3000; the last two are to reproduce results.
    lr_scale: learning rate of these layers over the run's, above 0; 1. The authors take 10.

    Raises UserError where nothing can be stacked.
    """

    neutral = {"trade_off": 0}
    declaration = Declaration(
        tasks_at_least=2,
        slots=("heads",),
        tags=("nonlinear_heads",),
        after=("freezes_backbone",),
    )

    def __init__(
        self,
        trade_off: Weight = 1.0,
        bottleneck: Count | None = 256,
        learn: list[Mode] | None = None,
        update_every: Count = 100,
        shrinkage: Share = 0.1,
        prior_scale: Scale = 1.0,
        scale: ScaleRule = "fixed",
        lr_scale: Scale = 1.0,
    ):
        self.trade_off = trade_off
        self.bottleneck = bottleneck
        self.learn = list(MODES) if learn is None else learn
        self.update_every = update_every
        self.shrinkage = shrinkage
        self.prior_scale = prior_scale
        self.scale: ScaleRule = scale
        self.lr_scale = lr_scale

    def build(self, context: Context) -> None:
        network = context.network
        classes = {task.outputs for task in context.tasks.values()}
        layers = ["bottleneck"] if self.bottleneck else []
        if len(classes) == 1:
            layers.append("classifier")
        if not layers:
            raise UserError(
                f"methods.{self.key}.bottleneck",
                f"tasks of {' and '.join(map(str, sorted(classes)))} classes have classifiers of "
                "different shapes, which cannot be stacked",
                "set a width, e.g. 256",
            )
        like = next(network.heads.parameters())
        for name, task in context.tasks.items():
            head = RelatedHead(network.feature_dim, self.bottleneck, task.outputs)
            for layer in layers:
                weight = head.get_parameter(f"{layer}.weight")
                weight._lr_scale = self.lr_scale  # type: ignore[attr-defined]
                weight._weight_decay = 0.0  # type: ignore[attr-defined]
            start = getattr(network.heads[name], "bias", None)
            if start is not None:  # another method may have chosen it
                head.classifier.bias.data.copy_(start)
            network.heads[name] = head.to(like.device)
        stacked = {layer: self.stacked(network, layer, context) for layer in layers}
        context.method_modules[self.key] = nn.ModuleDict(
            {layer: Precisions(w.shape, self.prior_scale) for layer, w in stacked.items()}
        )

    def stacked(self, network: Network, layer: str, context: Context) -> Tensor:
        """W [T, D2, D1] of a layer."""
        name = f"{layer}.weight"
        weights: list[Tensor] = [network.heads[t].get_parameter(name) for t in context.tasks]
        return torch.stack(weights)

    def terms(self, step: Step, context: Context) -> None:
        penalties = []
        # products of these matrices in half precision would be coarser than their differences
        with torch.autocast(context.device.type, enabled=False):
            for layer, precisions in self.module(context).items():
                w = self.stacked(context.network, layer, context).float()
                penalties.append(quadratic_form(w, precisions.by_mode()))
            penalty = torch.stack(penalties).sum() / (2 * context.sizes["labeled"])
        step.term(self.key, penalty, weight=self.trade_off)

    def after_step(self, step: Step, context: Context) -> None:
        if (step.progress.step + 1) % self.update_every == 0:
            for layer, precisions in self.module(context).items():
                self.update(precisions, self.stacked(context.network, layer, context))

    @torch.no_grad()
    def update(self, precisions: Precisions, w: Tensor) -> None:
        """One factor after the other, each with the others as they are by then."""
        w = precise(w)
        for k, mode in enumerate(MODES):
            if mode not in self.learn:
                continue
            known = [precise(p) for p in precisions.by_mode()]
            s = next_factor(w, known, k, self.shrinkage, self.scale)
            if mode == "task":
                s = s * self.prior_scale
            found = inverse(s)
            if self.scale == "code":
                found = found * (LARGEST_TRACE / found.trace()).clamp_max(1.0)
            kept = precisions.get_buffer(mode)
            kept.copy_(torch.where(found.isfinite().all(), found.to(kept), kept))

    def save_artifacts(self, folder: Path, context: Context) -> None:
        tables = {}
        for layer, precisions in self.module(context).items():
            s = inverse(precise(precisions.get_buffer("task")))
            deviations = s.diagonal().sqrt()
            correlations = s / (deviations[:, None] * deviations[None, :])
            tables[layer] = [[round(float(r), 6) for r in row] for row in correlations]
        write_json(folder / "task_correlations.json", {"tasks": list(context.tasks), **tables})
