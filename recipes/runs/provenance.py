"""The part of a checkpoint from which its recipe is rebuilt without data or other files."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.facts import DatasetFacts
from datamodules.fingerprint import Fingerprint
from recipes.networks.network import Network
from recipes.setup.changes import Change


def provenance(
    config: DictConfig,
    facts: DatasetFacts,
    network: Network,
    changes: Sequence[Change] = (),
    fingerprint: Fingerprint | None = None,
) -> dict[str, Any]:
    """A dict with the entries

    config: as YAML.
    facts: of the data.
    input_size: size to which the network resizes images.
    encoder: architecture of a text encoder as JSON; its folder may no longer exist.
    vocab_size: number of tokens of the text encoder.
    changes: settings changed when the run was resumed.
    fingerprint: of the data, for the run that resumes; None for a recipe without data.
    """
    size = getattr(network, "input_size", None)
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "facts": facts.plain(),
        "input_size": None if size is None else list(size),
        "encoder": getattr(network, "architecture", None),
        "vocab_size": getattr(network, "vocab_size", None),
        "changes": [asdict(change) for change in changes],
        "fingerprint": fingerprint,
    }
