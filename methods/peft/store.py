"""The delta alone: a file of what was trained, without the backbone it belongs to.

safetensors of every trained tensor and every buffer of a delta, by its name in the network; the
metadata hold the sites, the versions and a fingerprint of the frozen weights. A delta on another
backbone would be noise, so it is refused.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.networks.network import Network

logger = logging.getLogger(__name__)
FORMAT = "roux delta 1"
SAMPLED = 64  # values of each weight that enter the fingerprint


def fingerprint(network: Network) -> str:
    """A hash of the backbone's kernels and tables: of each, values at equal distances. Biases and
    norms are left out, since some methods train them, and so is whatever weight learns."""
    seen = hashlib.sha256()
    for name, parameter in sorted(network.backbone.named_parameters()):
        if parameter.ndim > 1 and not parameter.requires_grad:
            values = parameter.detach().flatten()
            places = torch.linspace(
                0, len(values) - 1, min(SAMPLED, len(values)), device=values.device
            ).long()
            seen.update(original(name).encode())
            seen.update(values[places].float().cpu().numpy().tobytes())
    return seen.hexdigest()


def original(name: str) -> str:
    """A parameter's name before its layer was parametrised."""
    return name.replace("parametrizations.weight.original", "weight")


def delta_names(network: Network) -> list[str]:
    """What makes this network differ from its frozen backbone: trained tensors, heads, whatever
    deltas hold."""
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    beside = [name for name in network.state_dict() if name.startswith(("deltas.", "heads."))]
    return list(dict.fromkeys([*trained, *beside]))


def save_delta(path: Path, network: Network, averaged: Network | None = None) -> None:
    """Write the delta of a network, with the values of its average where one is given."""
    values = (averaged or network).state_dict()
    state = {name: values[name].detach().cpu().contiguous() for name in delta_names(network)}
    modules = network.deltas.named_modules()
    about = {
        "format": FORMAT,
        "backbone": type(network.backbone).__name__,
        "fingerprint": fingerprint(network),
        "sites": json.dumps(
            {name: module.site for name, module in modules if hasattr(module, "site")}
        ),
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=about)


def load_delta(
    path: Path, network: Network, trained: Mapping[str, nn.Parameter], option: str
) -> None:
    """Give a method's parameters, and the heads that fit, the values of a file. trained: the
    parameters by name.

    On the meta device names and shapes are checked, nothing is copied. Raises UserError for a file
    that is none, that belongs to another backbone, or lacks something.
    """
    state, about = _read(path, option)
    own = dict(network.named_parameters())
    heads = {name: own[name] for name in state if name.startswith("heads.") and name in own}
    fitting = {name: head for name, head in heads.items() if head.shape == state[name].shape}
    lacking = [
        f"{name} {list(p.shape)}"
        for name, p in trained.items()
        if name not in state or state[name].shape != p.shape
    ]
    if lacking:
        found = (
            ", ".join(f"{name} {list(value.shape)}" for name, value in list(state.items())[:2])
            or "nothing"
        )
        raise UserError(
            f"{option}={path}: holds no {lacking[0]} ({len(lacking)} such); it begins with {found}"
        )
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    if about.get("fingerprint") != fingerprint(network):
        raise UserError(
            f"{option}={path}: was trained on other weights of a {about.get('backbone')}; "
            "name the same network, with network.pretrained or network.checkpoint as then"
        )
    if len(fitting) < len(network.heads.state_dict()):
        logger.warning(
            "%s: the heads in %s fit only %s here", option, path, sorted(fitting) or "none"
        )
    with torch.no_grad():
        for name, parameter in {**trained, **fitting}.items():
            parameter.copy_(state[name])


def _read(path: Path, option: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a delta file and what it says of itself."""
    if path.is_dir():
        inside = [path / name for name in ("delta.safetensors", "checkpoints/delta.safetensors")]
        path = next((file for file in inside if file.is_file()), path)
    if not path.is_file():
        raise UserError(
            f"{option}={path}: no such file; expected a run's folder or its "
            "checkpoints/delta.safetensors"
        )
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{option}={path}: not a safetensors file ({str(error).splitlines()[0]})"
        ) from error
    if about.get("format") != FORMAT:
        raise UserError(
            f"{option}={path}: is no delta of a run ({FORMAT}), but says '{about.get('format')}'"
        )
    return state, about
