"""What every checkpoint says of where it comes from: enough to build its recipe again without data
or other files."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.facts import DatasetFacts
from recipes.networks.network import Network
from recipes.runs.changes import Change


def provenance(
    config: DictConfig, facts: DatasetFacts, network: Network, changes: Sequence[Change] = ()
) -> dict[str, Any]:
    """config: as YAML. facts: of the data. input_size: what the network resizes pictures to.
    encoder: the architecture of a text encoder as JSON, which may have come from a folder that is
        gone; vocab_size: its tokens.
    changes: settings that were others before a step."""
    size = getattr(network, "input_size", None)
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "facts": facts.plain(),
        "input_size": None if size is None else list(size),
        "encoder": getattr(network, "architecture", None),
        "vocab_size": getattr(network, "vocab_size", None),
        "changes": [asdict(change) for change in changes],
    }
