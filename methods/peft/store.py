"""A delta file: what a method trained, without the backbone.

It is a safetensors file of every trained tensor and every buffer of a delta, by name in the
network. Its metadata contain the sites, the versions and a fingerprint of the frozen weights: on
another backbone a delta is noise, so loading it is refused.
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
    """A hash of the backbone's frozen weights: of each, values at equal distances. Biases and norms
    are not included, since some methods train them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(network.backbone.named_parameters()):
        if parameter.ndim > 1 and not parameter.requires_grad:
            values = parameter.detach().flatten()
            count = min(SAMPLED, len(values))
            positions = torch.linspace(0, len(values) - 1, count, device=values.device).long()
            digest.update(original(name).encode())
            digest.update(values[positions].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def original(name: str) -> str:
    """A parameter's name before its layer was parametrised."""
    return name.replace("parametrizations.weight.original", "weight")


def backbone_name(network: Network) -> str:
    """The backbone's class, without the prefix of torch's where a parameter of it is
    parametrised."""
    return type(network.backbone).__name__.removeprefix("Parametrized")


def delta_names(network: Network) -> list[str]:
    """Names of everything that is not the frozen backbone: trained tensors, heads, parameters and
    buffers of deltas."""
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    added = [name for name in network.state_dict() if name.startswith(("deltas.", "heads."))]
    return list(dict.fromkeys([*trained, *added]))


def save_delta(path: Path, network: Network, averaged: Network | None = None) -> None:
    """Write the delta of a network; with the values of its averaged copy, if one is given."""
    values = (averaged or network).state_dict()
    state = {name: values[name].detach().cpu().contiguous() for name in delta_names(network)}
    modules = dict(network.deltas.named_modules())
    sites = {name: module.site for name, module in modules.items() if hasattr(module, "site")}
    structure = {name: m.about() for name, m in modules.items() if hasattr(m, "about")}
    about = {
        "format": FORMAT,
        "backbone": backbone_name(network),
        "fingerprint": fingerprint(network),
        "sites": json.dumps(sites),
        "structure": json.dumps(structure),
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=about)


def load_delta(
    path: Path, network: Network, trained: Mapping[str, nn.Parameter], option: str
) -> None:
    """Copy the values of a file to a method's parameters, and to the heads of the same shape.

    trained: the method's parameters by name.

    On the meta device names and shapes are checked and nothing is copied. Raises UserError for a
    file that is not a delta, belongs to another backbone, or lacks a parameter.
    """
    state, about = read_delta_file(path, option)
    _check_complete(state, trained, f"{option}={path}")
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    if about.get("fingerprint") != fingerprint(network):
        raise UserError(
            f"{option}={path}: was trained on other weights of a {about.get('backbone')}; use the "
            "same network, with the same network.pretrained or network.checkpoint"
        )
    heads = fitting_heads(network, state)
    if len(heads) < len(network.heads.state_dict()):
        logger.warning(
            "%s: of the heads in %s only these fit: %s", option, path, sorted(heads) or "none"
        )
    with torch.no_grad():
        for name, parameter in {**trained, **heads}.items():
            parameter.copy_(state[name])


def _check_complete(
    state: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter], setting: str
) -> None:
    """Raise UserError if a parameter is missing or has another shape. setting: `option=path`."""
    missing = []
    for name, parameter in trained.items():
        if name not in state or state[name].shape != parameter.shape:
            missing.append(f"{name} {list(parameter.shape)}")
    if missing:
        first = [f"{name} {list(value.shape)}" for name, value in list(state.items())[:2]]
        raise UserError(
            f"{setting}: {missing[0]} is missing ({len(missing)} in all); the file starts with "
            f"{', '.join(first) or 'nothing'}"
        )


def fitting_heads(network: Network, state: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """The parameters of our heads that the file has in the same shape."""
    own = dict(network.named_parameters())
    names = [name for name in state if name.startswith("heads.") and name in own]
    return {name: own[name] for name in names if own[name].shape == state[name].shape}


def read_delta_file(
    path: Path, option: str, expected: str = FORMAT
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a delta file. expected: its format. Raises UserError."""
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
    if about.get("format") != expected:
        raise UserError(
            f"{option}={path}: is not a delta of a run; its format is '{about.get('format')}', "
            f"expected '{expected}'"
        )
    return state, about
