"""The network of a run, rebuilt from its checkpoint alone: no other file is opened, no hub is
contacted, no foreign code is imported.

Weights come from the checkpoint, as does the architecture of a text encoder (its configuration as
JSON). An image network is a model of timm by name. Options with which timm or transformers would
read other files are refused.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from foundation.errors import UserError
from recipes.runs.provenance import restored_files

PLAIN_NAME = re.compile(r"[\w.\-]+", re.ASCII)
# arguments of timm that read a file, contact a hub, or return something other than an image network
FILE_OPTIONS = re.compile(
    r"pretrained.*|features_only|feature_cfg|pruned|model_cfg|.*_(path|dir|file|url|id)"
)
ELSEWHERE = re.compile(r"[/\\:]")
# fields of an encoder by which transformers loads code, kernels or a second model
ENCODER_FIELDS = re.compile(
    r"auto_map|quantization_config|custom_pipelines|trust_remote_code|.*attn_implementation.*"
    r"|.*experts_implementation.*|.*backbone.*|.*pretrained.*|kernel_config|use_kernels|.*_(path|dir|file|url)"
)
# the origin of an encoder, which is not needed to build it
NAMES_ONLY = ("_name_or_path", "name_or_path")


def without_files(
    config: DictConfig, origin: Mapping[str, Any], folder: Path, trust: bool = False
) -> DictConfig:
    """The config of the same recipe without any initial weights: all of them are in the checkpoint.

    folder: an empty folder, for the encoder's configuration.
    trust: the architecture may be read from a hub or a file.

    Raises UserError for a network that cannot be built from the checkpoint alone.
    """
    config = copy.deepcopy(config)
    with open_dict(config):
        network = config.network
        network.pretrained = False
        network.checkpoint = None
        if origin["input_size"] is not None:
            network.input_size = origin["input_size"]
        if origin["encoder"] is not None:
            encoder = checked_encoder(origin["encoder"], trust)
            (folder / "config.json").write_text(json.dumps(encoder), encoding="utf-8")
            # whatever the options changed is written there
            network.name = str(folder)
            network.options = {}
            network.vocab_size = origin["vocab_size"]
        elif not trust:
            check_picture_network(config)
        for node in (config.get("methods") or {}).values():
            for name in ("load", "teacher"):
                if isinstance(node.get(name), str):
                    node[name] = None
            if isinstance(node.get("adapters"), ListConfig):
                # as many as there were: their number is part of the structure
                node["adapters"] = ["fresh"] * len(node["adapters"])
        for key, path in restored_files(config, origin.get("files") or {}, folder).items():
            OmegaConf.update(config, key, path)
    return config


def check_kind(kind: str, origin: Mapping[str, Any]) -> None:
    """Raise UserError if the data are texts and the checkpoint has no encoder, or vice versa: the
    network would be looked up by name elsewhere."""
    if (kind == "text") != (origin["encoder"] is not None):
        stored = "no text encoder" if origin["encoder"] is None else "a text encoder"
        raise UserError(f"network.name: the checkpoint has {stored}, but its data are {kind}")


def check_picture_network(config: DictConfig) -> None:
    """Raise UserError for a name or an option that would read anything but the checkpoint."""
    name = str(config.network.name)
    if not PLAIN_NAME.fullmatch(name):
        raise UserError(
            f"network.name: found {name[:60]!r}, and the checkpoint does not contain this "
            "architecture; expected a model of timm by name; if you trust it, add trust=true to "
            "read it from there"
        )
    for problem in option_problems(config.network.get("options"), "network.options"):
        raise UserError(
            f"{problem}; expected arguments of the architecture, all weights are in the checkpoint"
        )


def option_problems(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            if FILE_OPTIONS.fullmatch(str(name)):
                yield f"{key}.{name}: would read a file or contact a hub"
            yield from option_problems(child, f"{key}.{name}")
    elif isinstance(node, str):
        if ELSEWHERE.search(node):
            yield f"{key}: found {node[:60]!r}, a path or an address"
    elif hasattr(node, "__iter__"):
        for i, child in enumerate(node):
            yield from option_problems(child, f"{key}[{i}]")


def checked_encoder(text: str, trust: bool = False) -> dict[str, Any]:
    """The configuration of a text encoder.

    trust: `auto_map` is removed instead of refused; the encoder is the one in transformers with
        this model_type, never code from a hub.

    Raises UserError, one line, for an invalid configuration.
    """
    try:
        encoder = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"encoder: is not JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(encoder, dict):
        raise UserError(
            f"encoder: found {type(encoder).__name__}; expected a mapping with model_type"
        )
    if trust:
        encoder.pop("auto_map", None)
    for name in NAMES_ONLY:
        encoder.pop(name, None)
    for problem in encoder_problems(encoder, "encoder", 0):
        raise UserError(f"{problem}; expected the fields of a configuration of transformers")
    known = text_encoders()
    kind = encoder.get("model_type")
    if kind not in known:
        raise UserError(
            f"encoder.model_type: found {str(kind)[:60]!r}, for which transformers has no text "
            "encoder"
        )
    return encoder


def encoder_problems(node: Any, key: str, depth: int) -> Iterator[str]:
    if depth > 8:
        yield f"{key}: is nested too deeply"
    elif isinstance(node, dict):
        for name, child in node.items():
            # in configurations, null and an empty mapping mean that a field is not used
            if ENCODER_FIELDS.fullmatch(name) and child not in (None, {}, False):
                yield f"{key}.{name}: would load code or another model"
            yield from encoder_problems(child, f"{key}.{name}", depth + 1)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from encoder_problems(child, f"{key}[{i}]", depth + 1)


def text_encoders() -> frozenset[str]:
    """The text model types of transformers: those with a masked language model or a text
    classifier."""
    from transformers.models.auto import modeling_auto

    tables = (
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )
    return frozenset(name for table in tables for name in table)
