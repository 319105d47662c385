"""A file of sparse changes: for every tensor the positions that differ and the differences, and the
heads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from foundation.errors import UserError
from methods.peft.freezing import on_meta_device
from methods.peft.store import backbone_name, fingerprint, fitting_heads, read_delta_file
from recipes.networks.network import Network

FORMAT = "roux sparse delta 1"
POSITIONS, VALUES = "positions", "values"


def write_sparse(path: Path, network: Network, changes: Mapping[str, Tensor]) -> None:
    """Write the entries of `changes` that are not zero, by name, and the heads of the network."""
    state = {}
    for name, change in changes.items():
        flat = change.detach().cpu().flatten()
        positions = flat.nonzero().flatten()
        if len(positions):
            state[f"{name}.{POSITIONS}"] = positions.to(torch.int32)
            state[f"{name}.{VALUES}"] = flat[positions]
    for name, value in network.heads.state_dict().items():
        state[f"heads.{name}"] = value.detach().cpu().contiguous()
    about = {
        "format": FORMAT,
        "backbone": backbone_name(network),
        "fingerprint": fingerprint(network),
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata=about)


def read_sparse(
    path: Path, network: Network, shapes: Mapping[str, torch.Size], option: str
) -> list[Tensor]:
    """The changes as dense tensors, in the order of `shapes`; heads of the same shape are copied to
    the network. Raises UserError for a file of another backbone, or of another format."""
    state, about = read_delta_file(path, option, FORMAT)
    setting = f"{option}={path}"
    ending = f".{POSITIONS}"
    changed = {key.removesuffix(ending) for key in state if key.endswith(ending)}
    unknown = sorted(changed - shapes.keys())
    if unknown:
        problem = f"changes '{unknown[0]}', which this network does not have"
        raise UserError(setting, problem, "use the network that it was trained with")
    if not on_meta_device(network) and about.get("fingerprint") != fingerprint(network):
        raise UserError(
            setting,
            f"was trained on other weights of a {about.get('backbone')}",
            "use the same network, with the same network.pretrained or network.checkpoint",
        )
    found = []
    for name, shape in shapes.items():
        dense = torch.zeros(shape.numel())
        if name in changed:
            positions = state[f"{name}.{POSITIONS}"].long()
            if len(positions) and int(positions.max()) >= len(dense):
                raise UserError(setting, f"'{name}' has another shape there")
            dense[positions] = state[f"{name}.{VALUES}"].float()
        found.append(dense.view(shape))
    if not on_meta_device(network):
        with torch.no_grad():
            for name, parameter in fitting_heads(network, state).items():
                parameter.copy_(state[name])
    return found
