"""The adapters of finished runs, read from their delta files and compared with what they are to
fill."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from methods.peft.activations import Bottleneck
from methods.peft.freezing import on_meta_device
from methods.peft.store import fingerprint, read_delta_file
from recipes.networks.network import Network

TRAIN_ONE = "train one with peft=adapter methods.adapter.variant=pfeiffer"
PART = re.compile(r"deltas\.(\w+)\.(\d+)\.((?:down|up)\.(?:weight|bias))")


def copy_adapter(place: str, network: Network, own: Sequence[Bottleneck], option: str) -> None:
    """Copy the adapters of a run, one a block, to `own`. On the meta device they are only compared,
    and a checkpoint that an earlier stage will write is not looked for.

    place: folder or checkpoint of the run. network: frozen, with `own` attached. option: the
        setting, for messages.

    Raises UserError for a run without such adapters, of another structure, or on another backbone.
    """
    meta = on_meta_device(network)
    path = delta_path(Path(place).expanduser())
    if meta and Path(place).suffix == ".ckpt" and not path.is_file():
        return
    state, about = read_delta_file(path, option)
    check_variant(about, own[0].variant, f"{option}: '{place}'")
    parts = adapter_parts(state, f"{option}: '{place}'")
    check_structure(parts, about, own, f"{option}: '{place}'")
    if meta:
        return
    if about.get("fingerprint") != fingerprint(network):
        raise UserError(
            f"{option}: '{place}' was trained on other weights of a {about.get('backbone')}; all "
            "runs need the same network, with the same network.pretrained or network.checkpoint"
        )
    with torch.no_grad():
        for block, adapter in zip(parts, own, strict=True):
            for name, parameter in adapter.named_parameters():
                parameter.copy_(block[name])


def delta_path(place: Path) -> Path:
    """The delta file of a run: beside its checkpoint, or in its folder; of several stages, in that
    of the last."""
    if place.suffix == ".ckpt":
        return place.with_name("delta.safetensors")
    return place


def adapter_parts(state: Mapping[str, Tensor], subject: str) -> list[dict[str, Tensor]]:
    """The tensors of each adapter of a file, by name. Raises UserError if it has anything else that
    was trained, apart from heads. subject: of the message."""
    blocks: dict[int, dict[str, Tensor]] = {}
    other: list[str] = []
    owners: dict[str, None] = {}
    for name, value in state.items():
        matched = PART.fullmatch(name)
        if matched:
            owners[matched[1]] = None
            blocks.setdefault(int(matched[2]), {})[matched[3]] = value
        elif not name.startswith("heads."):
            other.append(name)
    if other or len(owners) > 1:
        more = other[0] if other else f"adapters of {' and '.join(owners)}"
        problem = f"has more than the adapters of one method ({more})"
        if other and not owners:
            problem = f"has no adapters but other changes ({more})"
        raise UserError(f"{subject} {problem}; {TRAIN_ONE}")
    if not blocks:
        raise UserError(f"{subject} has no adapters; {TRAIN_ONE}")
    return [blocks[number] for number in sorted(blocks)]


def check_variant(about: Mapping[str, str], variant: str, subject: str) -> None:
    """Raise UserError for adapters at other places of a block."""
    for entry in json.loads(about.get("structure", "{}")).values():
        if entry["variant"] != variant:
            raise UserError(
                f"{subject} has adapters with variant={entry['variant'] or 'another'}; only those "
                f"with variant={variant} are fused: {TRAIN_ONE}"
            )


def check_structure(
    parts: Sequence[Mapping[str, Tensor]],
    about: Mapping[str, str],
    own: Sequence[Bottleneck],
    subject: str,
) -> None:
    """Raise UserError if the adapters of a file are not at the places, or not of the form, of
    `own`."""
    sites = list(json.loads(about.get("sites", "{}")).values())
    expected = [adapter.site for adapter in own]
    found = structure_of(about, subject)
    if sites != expected:
        raise UserError(
            f"{subject} has {len(sites)} adapters, first at '{sites[0]}', and this network needs "
            f"{len(expected)}, first at '{expected[0]}'; use the same network.name"
        )
    width = parts[0]["down.weight"].shape[1]
    if width != own[0].down.in_features:
        raise UserError(
            f"{subject} has adapters for states of {width} numbers, and this network has "
            f"{own[0].down.in_features}; use the same network.name"
        )
    theirs = {"bottleneck": len(parts[0]["down.weight"]), **found}
    ours = {"bottleneck": own[0].down.out_features, **own[0].about()}
    for name, value in theirs.items():
        if value != ours[name]:
            raise UserError(
                f"{subject} has adapters with {name}={value}, and this run has {name}="
                f"{ours[name]}; set methods.adapter_fusion.{name}={value}, if all runs have it"
            )


def structure_of(about: Mapping[str, str], subject: str) -> dict[str, Any]:
    """What the metadata of a file say of its adapters, which are all alike."""
    every = list(json.loads(about.get("structure", "{}")).values())
    if not every:
        raise UserError(
            f"{subject} was written by an earlier version, without the form of its adapters; train "
            "it again"
        )
    return dict(every[0])
