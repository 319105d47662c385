"""Freezes weights of a network by the names of its parameters, for a run or for its first steps."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from foundation.errors import UserError, did_you_mean, nearest_name
from foundation.types import steps_of
from recipes.networks.network import Network
from recipes.step.batchnorm import batch_normalizations

BACKBONE = "backbone."
FREEZE, UNFREEZE = "network.freeze", "network.unfreeze_at"
BATCHNORM = "network.freeze_batchnorm"
SHOWN = 8  # names in a message


def freeze_requested(network: Network) -> None:
    """Do what `network.freezing` requests, after surgery: names are those of the trained network.
    Weights that train later are only noted, in `network.waiting`.

    Raises UserError for a pattern without a parameter, for a network that a method has frozen, and
    where nothing would train.
    """
    request = getattr(network, "freezing", None)
    if not request:
        return
    if network.frozen:
        problem = "a method of this run has frozen the backbone already"
        raise UserError(_first_key(network), problem, "leave one out")
    frozen: set[str] = set()
    for pattern in request.patterns:
        frozen |= matching(network, pattern, FREEZE)
    waiting: dict[str, tuple[float, ...]] = {}
    for pattern, when in request.unfreeze_at.items():
        for name in matching(network, pattern, UNFREEZE):
            waiting[name] = (*waiting.get(name, ()), when)
    for name in frozen - waiting.keys():
        network.get_parameter(name).requires_grad_(False)
    # what the forward never reads is frozen for good
    network.waiting = {
        name: when for name, when in waiting.items() if network.get_parameter(name).requires_grad
    }
    network.keep_eval_only(norms_of(network, frozen - waiting.keys()))
    if request.batchnorm:
        _freeze_norms(network, affine=request.batchnorm == "affine")
    _check_first_step(network)


def matching(network: nn.Module, pattern: str, key: str) -> set[str]:
    """Names of the parameters that a pattern means. Raises UserError if there are none."""
    names = [name for name, _ in network.named_parameters()]
    found = {name for name in names if is_meant(name, pattern)}
    if not found:
        raise UserError(f"{key}: '{pattern}'", "matches no parameter", near(pattern, names))
    return found


def near(pattern: str, names: Iterable[str]) -> str:
    """The closest name of a parameter or module; if none is close, the outermost ones."""
    known = with_modules(name.removeprefix(BACKBONE) for name in names)
    closest = nearest_name(pattern, known)
    if closest:
        return did_you_mean(closest)
    outermost = sorted((name for name in known if "." not in name), key="heads".__eq__)
    return f"the network has {', '.join(outermost[:SHOWN])}"


def is_meant(name: str, pattern: str) -> bool:
    """Whether a pattern means this parameter, by its name or by that of a module around it."""
    for form in {name, name.removeprefix(BACKBONE)}:
        if fnmatchcase(form, pattern) or fnmatchcase(form, f"{pattern}.*"):
            return True
    return False


def with_modules(names: Iterable[str]) -> list[str]:
    """The names, and those of all modules around them."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            found[".".join(parts[:end])] = None
    return list(found)


def norms_of(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """The BatchNorm layers whose parameters are all among these names: running statistics that
    change are training, too."""
    among = set(names)
    layers: list[nn.Module] = []
    for path, module in network.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own and isinstance(module, _BatchNorm) and among.issuperset(own):
            layers.append(module)
    return layers


def first_trained(network: Network, total_steps: int) -> dict[str, int]:
    """The optimizer step at which each waiting parameter begins to train, by name: the first of
    those that patterns give it."""
    return {
        name: min(steps_of(value, total_steps) for value in when)
        for name, when in getattr(network, "waiting", {}).items()
    }


def _freeze_norms(network: Network, affine: bool) -> None:
    layers = batch_normalizations(network.backbone)
    if not layers:
        problem = "the network has no BatchNorm"
        raise UserError(f"{BATCHNORM}={'affine' if affine else 'true'}", problem, "leave it out")
    network.keep_eval_only(layers)
    for layer in layers if affine else ():
        layer.requires_grad_(False)
    own = {id(p) for layer in layers for p in layer.parameters()}
    if affine:
        waiting = network.waiting
        network.waiting = {
            name: when
            for name, when in waiting.items()
            if id(network.get_parameter(name)) not in own
        }


def _check_first_step(network: Network) -> None:
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    if trained and all(name in network.waiting for name in trained):
        problem = "nothing trains in the first step"
        raise UserError(UNFREEZE, problem, "leave at least the heads out")


def _first_key(network: Network) -> str:
    request = network.freezing
    if request.patterns:
        return FREEZE
    return UNFREEZE if request.unfreeze_at else BATCHNORM
