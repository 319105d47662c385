"""GLoRA in the format of the peft library: linear layers whose A and B have one form, D and E one
form, and no change of the bias where there is none. Parts of a fused layer have no place in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.peft_format import CONFIG, PREFIX, WEIGHTS, listed_sites, load_folder, own_name

SUPPORTS = "abcde"


def form_of(support: Any) -> str:
    """The library's word for the form of a support."""
    if support is None:
        return "none"
    if isinstance(support, nn.Parameter):
        return "constant" if len(support) == 1 else "vector"
    return "constant" if support.kind == "scalar" else str(support.kind)


def entries(name: str, delta: Any) -> dict[str, nn.Parameter]:
    """The parameters of a support by the end of their name in the file."""
    support = getattr(delta, name)
    letter = f"glora_{name.upper()}"
    if support is None:
        return {}
    if isinstance(support, nn.Parameter):
        return {f"{letter}.X": support}
    if support.kind == "lora":
        return {f"{letter}.Xd": support.down, f"{letter}.Xu": support.up}
    return {f"{letter}.X": support.down}


def common_forms(deltas: Sequence[Any]) -> dict[str, str] | None:
    """The library's settings for these deltas; None if it cannot represent them."""
    found: dict[str, set[str]] = {"config_A_B": set(), "config_C": set(), "config_D_E": set()}
    for delta in deltas:
        if delta.rows is not None or not delta.linear or delta.transposed:
            return None
        forms = {name: form_of(getattr(delta, name)) for name in SUPPORTS}
        found["config_A_B"] |= {forms["a"], forms["b"]}
        if delta.has_bias:
            found["config_C"].add(forms["c"])
            found["config_D_E"] |= {forms["d"], forms["e"]}
        elif forms["c"] != "none" or forms["e"] != "none":
            return None
    if any(len(forms) > 1 for forms in found.values()):
        return None
    return {key: next(iter(forms), "none") for key, forms in found.items()}


def write_glora(folder: Path, deltas: Sequence[Any]) -> None:
    """Write the deltas so that `PeftModel.from_pretrained(backbone, folder)` loads them; nothing is
    written if the library cannot represent them."""
    forms = common_forms(deltas)
    if forms is None:
        return
    tensors = {}
    for delta in deltas:
        for name in SUPPORTS:
            for key, parameter in entries(name, delta).items():
                value = parameter.detach().cpu().reshape(library_shape(key, parameter))
                tensors[f"{PREFIX}{delta.site}.{key}"] = value.contiguous()
    config = {
        "peft_type": "GLORA",
        "task_type": None,
        "inference_mode": True,
        "r": deltas[0].rank,
        "target_modules": [delta.site for delta in deltas],
        "bias": "none",
        **forms,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def library_shape(key: str, parameter: Tensor) -> list[int]:
    """One number is [1] there."""
    return [1] if key.endswith(".X") and parameter.numel() == 1 else list(parameter.shape)


@torch.no_grad()
def read_glora(folder: Path, deltas: Sequence[Any], base_prefix: str, option: str) -> None:
    """Fill the deltas from a folder in the library's format.

    base_prefix: prefix of the backbone's names in a model with a task head (`bert`).

    Raises UserError if the folder contains anything but GLoRA of these layers in these forms.
    """
    setting = f"{option}={folder}"
    config, file = load_folder(folder, option)
    if config.get("peft_type") != "GLORA":
        problem = f"is not GLoRA (peft_type={config.get('peft_type')})"
        raise UserError(setting, problem, "expected a folder of GLoRA")
    state = {own_name(key, base_prefix): value for key, value in file.items() if ".glora_" in key}
    state = {key: value for key, value in state.items() if not key.endswith(".zeros")}
    for delta in deltas:
        if delta.rows is not None:
            problem = f"'{delta.site}' has one set of supports for all its rows"
            raise UserError(setting, problem, "set qkv=shared")
        for name in SUPPORTS:
            for key, parameter in entries(name, delta).items():
                value = state.pop(f"{delta.site}.{key}", None)
                check(value, parameter, f"{delta.site}.{key}", config, setting)
                if value is not None and not parameter.is_meta:
                    parameter.copy_(value.view_as(parameter))
    if state:
        problem = f"changes what has no such support here: {listed_sites(state)}"
        raise UserError(setting, problem, f"set targets and forms as there ({shown(config)})")


def check(
    value: Tensor | None, parameter: Tensor, key: str, config: Mapping[str, Any], setting: str
) -> None:
    """Raise UserError if the file has no such parameter, or one of another size."""
    if value is None:
        raise UserError(setting, f"has no '{key}'", f"set the forms as there ({shown(config)})")
    if value.numel() != parameter.numel():
        problem = f"'{key}' is {list(value.shape)} there and {list(parameter.shape)} here"
        raise UserError(setting, problem, f"set rank and forms as there ({shown(config)})")


def shown(config: Mapping[str, Any]) -> str:
    names = ("r", "config_A_B", "config_C", "config_D_E")
    return ", ".join(f"{name}={config.get(name)}" for name in names)
