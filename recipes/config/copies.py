"""Copies of configs. `copy.deepcopy` copies the metadata of every value separately, which takes
four times as long. As bytes a config takes an eighth of its memory."""

import pickle
from typing import cast

from omegaconf import DictConfig


def as_bytes(config: DictConfig) -> bytes:
    """A config to be kept in this process: nothing that comes from a file is unpickled."""
    return pickle.dumps(config, pickle.HIGHEST_PROTOCOL)


def of_bytes(kept: bytes) -> DictConfig:
    return cast(DictConfig, pickle.loads(kept))


def copied(config: DictConfig) -> DictConfig:
    return of_bytes(as_bytes(config))
