"""Optimizers by name, with defaults that mean what the name says.

timm's factory makes most of them (see `factory`), and some of its names mislead: its `sgd`
is Nesterov's form, its `rmsprop` has momentum 0.9 and α = 0.9, its `adagrad` another ε, and its
`lars` and `lamb` adapt nothing where the weight decay is 0. The settings below say each of these
openly; `NamedOptimizer` hands any other name to timm as it is.

Weight decay acts on tensors with more than one dimension only (kernels, embeddings), never on
biases, norms and scales: chosen by shape, since names miss norms called otherwise. A parameter may
carry `_lr_scale` (factor of the learning rate) and `_weight_decay` (its own decay): these win."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar

from omegaconf import OmegaConf
from pydantic import Field
from torch import nn, optim

from foundation.errors import UserError, nearest
from foundation.types import Scale, ShareBelowOne, Weight
from recipes.optimization.factory import FORMS, Maker, OptimizerImpl, form_of, maker_of

Betas = tuple[ShareBelowOne, ShareBelowOne]
Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What all optimizers share.

    lr: base learning rate γ, above 0.
    weight_decay: λ, on tensors with more than one dimension, at least 0.
    options: further arguments of the optimizer: +optimizer.options.NAME=VALUE.
    """

    lr: Scale = 1e-3
    weight_decay: Weight = 0.0
    options: Options = field(default_factory=dict)
    factory: ClassVar[str] = ""

    def arguments(self) -> dict[str, Any]:
        """Arguments for the constructor beside lr and weight decay; `options` win."""
        shared = {"name", "lr", "weight_decay", "options"}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        return {name: _plain(value) for name, value in (own | dict(self.options)).items()}

    def factory_name(self) -> str:
        return self.factory


@dataclass(frozen=True, kw_only=True)
class NamedOptimizer(OptimizerSettings):
    """Any optimizer of timm's by its name there, with timm's defaults; `rprop` and `asgd` are
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
    """w ← w - γ sign(β₁m + (1-β₁)g), decoupled decay (arXiv 2302.06675). Takes a rate 3 to 10 times
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
    global gradient norm to 1 and adapts only decayed tensors; here neither happens unless asked
    for.

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
    tensors with decay; here all, unless `always_adapt` is off.

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
    1804.04235). The step is `lr` itself: timm scales it by RMS(w) only where it makes its own
    learning rate, which our schedulers replace.

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
    """m ← β₁m + g/√v + λw with one second moment v a tensor (arXiv 1905.11286).

    betas: decays [β₁, β₂] of the moments, in [0, 1); timm's; [0.9, 0.25] is also in use.
    eps: ε of the denominator, above 0; 1e-8.
    grad_averaging: multiply the gradient by 1 - β₁; false.
    """

    betas: Betas = (0.95, 0.98)
    eps: Scale = 1e-8
    grad_averaging: bool = False
    factory: ClassVar[str] = "novograd"


@dataclass(frozen=True, kw_only=True)
class RMSprop(OptimizerSettings):
    """v ← αv + (1-α)g²; w ← w - γ g / (√v + ε), without momentum unless asked for (Tieleman and
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


def build_optimizer(
    module: nn.Module,
    settings: OptimizerSettings,
    extra_groups: Sequence[Mapping[str, Any]] = (),
    impl: OptimizerImpl = "loop",
    precision: str = "32-true",
) -> optim.Optimizer:
    """An optimizer over the trainable parameters of `module` and over a method's own groups.

    extra_groups: dicts with `params` and any of `lr`, `weight_decay`; their parameters are taken
    out of the module's, and their group's values win over the settings, a parameter's own flags
    over both. impl: what is run on the tensors, see `TrainerSettings`; the optimizer's own
    options win. Raises `UserError` for an unknown name, an argument that the optimizer does not
    have, and where nothing is left to train."""
    groups = parameter_groups(module, settings, extra_groups)
    if not groups:
        raise UserError(
            "nothing to train: every parameter is frozen; add a method that trains or unfreeze the "
            "head"
        )
    make, known = _checked(settings)
    name = settings.factory_name()
    arguments = settings.arguments()
    if not arguments.keys() & FORMS:
        arguments |= form_of(impl, name, known, groups[0]["params"][0].device.type, precision)
    try:
        return make(groups, lr=settings.lr, weight_decay=settings.weight_decay, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer: '{name}' cannot be made with {arguments}: {error}") from error


def check_optimizer(settings: OptimizerSettings) -> Maker:
    """What makes the optimizer, from groups, rate, decay and the settings' arguments. Raises
    `UserError` for an unknown name and for arguments that it does not have, before there is
    anything to optimise."""
    return _checked(settings)[0]


def chosen_form(
    settings: OptimizerSettings, impl: OptimizerImpl, device: str, precision: str
) -> str:
    """The same in a word: `fused`, `foreach`, `loop`, and `own` where the optimizer has no
    choice."""
    given = settings.arguments()
    form = {name: bool(given[name]) for name in FORMS & given.keys()}
    form = form or form_of(impl, settings.factory_name(), _checked(settings)[1], device, precision)
    return next((name for name, taken in form.items() if taken), "loop" if form else "own")


def _checked(settings: OptimizerSettings) -> tuple[Maker, set[str]]:
    name = settings.factory_name()
    make, known = maker_of(name)
    for argument in sorted(settings.arguments().keys() - known):
        raise UserError(
            f"optimizer.options.{argument}: '{name}' has no such argument; "
            f"{nearest(argument, known)}"
        )
    return make, known


def parameter_groups(
    module: nn.Module, settings: OptimizerSettings, extra_groups: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Groups of equal learning rate and decay, frozen parameters left out, in the order of first
    appearance."""
    claimed = {id(p) for group in extra_groups for p in group["params"]}
    own = {"params": [p for p in module.parameters() if id(p) not in claimed]}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for group in (own, *extra_groups):
        for parameter in _trainable(group["params"]):
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            decay = getattr(parameter, "_weight_decay", group.get("weight_decay", decay))
            rate = group.get("lr", settings.lr) * getattr(parameter, "_lr_scale", 1.0)
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]


def _plain(value: Any) -> Any:
    """A config's list as a tuple: the optimizer's state keeps it, and checkpoints hold plain
    values."""
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return tuple(value) if isinstance(value, list) else value


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad]
