"""Settings of the optimizers, with the papers' or torch's defaults.

timm constructs most of them (see `factory`), and some of its defaults differ from what the name
suggests: its `sgd` is Nesterov's, its `rmsprop` has momentum 0.9 and α = 0.9, its `adagrad` has
another ε, and its `lars` and `lamb` adapt nothing where the weight decay is 0. The settings below
state each of these explicitly. `NamedOptimizer` passes any other name to timm unchanged.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from omegaconf import OmegaConf
from pydantic import Field

from foundation.types import Count, Scale, ShareBelowOne, Weight

Betas = tuple[ShareBelowOne, ShareBelowOne]
Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The settings that all optimizers have.

    lr: base learning rate γ, above 0.
    weight_decay: λ, on tensors with more than one dimension, at least 0.
    layer_decay: factor of the rate from layer to layer towards the input, above 0, at most 1; 1:
        none. Of the backbone; fine-tuned transformers: 0.5 to 0.9.
    base_batch_size: labeled samples of the optimizer step that `lr` is meant for, at least 1; null:
        any.
    lr_scaling: with base_batch_size, how the rate follows the batch: `linear` or `sqrt`. Linear for
        SGD (Goyal et al., arXiv 1706.02677), sqrt for Adam and LAMB (You et al., arXiv 1904.00962).
    options: further arguments of the optimizer: +optimizer.options.NAME=VALUE.
    """

    lr: Scale = 1e-3
    weight_decay: Weight = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    base_batch_size: Count | None = None
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    options: Options = field(default_factory=dict)
    factory: ClassVar[str] = ""

    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, without lr and weight decay; `options` take precedence."""
        shared = {"name", *(entry.name for entry in fields(OptimizerSettings))}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        arguments = own | dict(self.options)
        return {name: _without_omegaconf(value) for name, value in arguments.items()}

    def factory_name(self) -> str:
        return self.factory

    def for_batch(self, samples: int) -> Self:
        """The same with the rate of a step of so many labeled samples: lr · B / base_batch_size, or
        lr · √(B / base_batch_size)."""
        if self.base_batch_size is None:
            return self
        ratio = samples / self.base_batch_size
        return replace(self, lr=self.lr * (ratio if self.lr_scaling == "linear" else ratio**0.5))


@dataclass(frozen=True, kw_only=True)
class NamedOptimizer(OptimizerSettings):
    """Any optimizer of timm by its name in timm, with timm's defaults; `rprop` and `asgd` are
    torch's.

    name: name of the optimizer in timm, or `rprop`, `asgd`.
    """

    name: str

    def factory_name(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerSettings):
    """m ← μm + g; w ← w - γm, or w ← w - γ(g + μm) with `nesterov`; decay is L2 inside g.

    momentum: μ, in [0, 1); 0.9.
    nesterov: look ahead along the momentum; true.
    """

    lr: Scale = 0.03
    weight_decay: Weight = 5e-4
    momentum: ShareBelowOne = 0.9
    nesterov: bool = True
    factory: ClassVar[str] = "momentum"


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerSettings):
    """w ← w - γ m̂ / (√v̂ + ε); decay is L2 inside the gradient (Kingma and Ba, arXiv 1412.6980).

    betas: decays [β₁, β₂] of the moments, in [0, 1); paper's.
    eps: ε of the denominator, above 0; 1e-8 (paper).
    amsgrad: divide by the largest v̂ so far (arXiv 1904.09237); false.
    """

    betas: Betas = (0.9, 0.999)
    eps: Scale = 1e-8
    amsgrad: bool = False
    factory: ClassVar[str] = "adam"


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled decay w ← w(1 - γλ) (Loshchilov and Hutter, arXiv 1711.05101)."""

    weight_decay: Weight = 0.01
    factory: ClassVar[str] = "adamw"


@dataclass(frozen=True, kw_only=True)
class NAdamW(OptimizerSettings):
    """w ← w(1 - γλ) - γ m̃ / (√v̂ + ε): Adam with Nesterov's look-ahead in m̃ and decoupled decay
    (Dozat, Incorporating Nesterov Momentum into Adam, 2016).

    betas: decays [β₁, β₂] of the moments, in [0, 1); those of Adam.
    eps: ε of the denominator, above 0; 1e-8 (Adam's).
    """

    weight_decay: Weight = 0.01
    betas: Betas = (0.9, 0.999)
    eps: Scale = 1e-8
    factory: ClassVar[str] = "nadamw"


@dataclass(frozen=True, kw_only=True)
class RAdam(OptimizerSettings):
    """w ← w - γ r m̂ / (√v̂ + ε): Adam with the rectified variance, plain momentum while it cannot
    be estimated (arXiv 1908.03265); torch switches at ρ_t > 5, the paper at 4. Decay is L2 inside
    the gradient.

    betas: decays [β₁, β₂] of the moments, in [0, 1); paper's.
    eps: ε of the denominator, above 0; 1e-8.
    """

    betas: Betas = (0.9, 0.999)
    eps: Scale = 1e-8
    factory: ClassVar[str] = "radam"


@dataclass(frozen=True, kw_only=True)
class Lion(OptimizerSettings):
    """w ← w - γ sign(β₁m + (1-β₁)g), decoupled decay (arXiv 2302.06675). Needs a rate 3 to 10 times
    smaller and a decay 3 to 10 times larger than AdamW.

    betas: [β₁, β₂], of the sign and of the momentum, in [0, 1); paper's.
    """

    lr: Scale = 1e-4
    weight_decay: Weight = 0.1
    betas: Betas = (0.9, 0.99)
    factory: ClassVar[str] = "lion"


@dataclass(frozen=True, kw_only=True)
class LAMB(OptimizerSettings):
    """w ← w - γ (‖w‖/‖r‖) r per tensor, r = m̂/(√v̂+ε) + λw (arXiv 1904.00962). timm clips the
    global gradient norm to 1 and adapts only decayed tensors; here neither is the default.

    betas: decays [β₁, β₂] of the moments, in [0, 1); paper's.
    eps: ε of the denominator, above 0; 1e-6 (paper).
    always_adapt: scale tensors without decay as well; true (paper).
    max_grad_norm: largest global gradient norm, above 0; null: no clipping.
    trust_clip: limit ‖w‖/‖r‖ to 1; false.
    """

    weight_decay: Weight = 0.01
    betas: Betas = (0.9, 0.999)
    eps: Scale = 1e-6
    always_adapt: bool = True
    max_grad_norm: Scale | None = None
    trust_clip: bool = False
    factory: ClassVar[str] = "lamb"


@dataclass(frozen=True, kw_only=True)
class LARS(OptimizerSettings):
    """Momentum on g scaled per tensor by η‖w‖ / (‖g‖ + λ‖w‖) (arXiv 1708.03888). timm adapts only
    tensors with decay; here all tensors, unless `always_adapt` is false.

    momentum: μ, in [0, 1); 0.9 (paper).
    nesterov: look ahead along the momentum; false.
    trust_coeff: η, above 0; 0.001 (paper).
    eps: added to the denominator of the scale, above 0; 1e-8.
    always_adapt: scale tensors without decay as well; true (paper).
    trust_clip: limit the scale to 1; false.
    """

    lr: Scale = 1.0
    weight_decay: Weight = 1e-4
    momentum: ShareBelowOne = 0.9
    nesterov: bool = False
    trust_coeff: Scale = 1e-3
    eps: Scale = 1e-8
    always_adapt: bool = True
    trust_clip: bool = False
    factory: ClassVar[str] = "lars"


@dataclass(frozen=True, kw_only=True)
class Adafactor(OptimizerSettings):
    """w ← w - γ g / √v̂ with v̂ factored into rows and columns, β̂₂ = 1 - t^decay_rate (arXiv
    1804.04235). The step size is `lr`: timm scales it by RMS(w) only where timm computes the
    learning rate itself, and schedulers replace that.

    eps: added to g², above 0; 1e-30 (paper).
    clip_threshold: largest RMS of the update, above 0; 1 (paper).
    decay_rate: exponent of t in β̂₂, at most 0; -0.8 (paper).
    betas: [β₁, β₂], of which β₁ is a momentum; null: none (paper).
    """

    eps: Scale = 1e-30
    clip_threshold: Scale = 1.0
    decay_rate: Annotated[float, Field(le=0)] = -0.8
    betas: Betas | None = None
    factory: ClassVar[str] = "adafactor"


@dataclass(frozen=True, kw_only=True)
class NovoGrad(OptimizerSettings):
    """m ← β₁m + g/√v + λw with one second moment v per tensor (arXiv 1905.11286).

    betas: decays [β₁, β₂] of the moments, in [0, 1); timm's; [0.9, 0.25] is also common.
    eps: ε of the denominator, above 0; 1e-8.
    grad_averaging: multiply the gradient by 1 - β₁; false.
    """

    betas: Betas = (0.95, 0.98)
    eps: Scale = 1e-8
    grad_averaging: bool = False
    factory: ClassVar[str] = "novograd"


@dataclass(frozen=True, kw_only=True)
class RMSprop(OptimizerSettings):
    """v ← αv + (1-α)g²; w ← w - γ g / (√v + ε), without momentum by default (Tieleman and
    Hinton, 2012).

    alpha: decay α of the second moment, in [0, 1); 0.99 (torch).
    eps: ε of the denominator, above 0; 1e-8 (torch).
    momentum: μ on the update, in [0, 1); 0: none.
    """

    alpha: ShareBelowOne = 0.99
    eps: Scale = 1e-8
    momentum: ShareBelowOne = 0.0
    factory: ClassVar[str] = "rmsprop"


@dataclass(frozen=True, kw_only=True)
class Adagrad(OptimizerSettings):
    """v ← v + g²; w ← w - γ g / (√v + ε) (Duchi, Hazan and Singer, JMLR 12, 2011).

    eps: ε of the denominator, above 0; 1e-10 (torch).
    """

    lr: Scale = 0.01
    eps: Scale = 1e-10
    factory: ClassVar[str] = "adagrad"


def _without_omegaconf(value: Any) -> Any:
    """A config's list as a tuple: the optimizer's state contains it, and checkpoints must not
    contain OmegaConf's classes."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return tuple(value) if isinstance(value, list) else value
