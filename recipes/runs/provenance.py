"""The part of a checkpoint from which its recipe is rebuilt without data or other files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.facts import DatasetFacts
from datamodules.fingerprint import Fingerprint
from recipes.config.signatures import find_target
from recipes.contract.method import Method
from recipes.networks.network import Network
from recipes.setup.changes import Change


def provenance(
    config: DictConfig,
    facts: DatasetFacts,
    network: Network,
    changes: Sequence[Change] = (),
    fingerprint: Fingerprint | None = None,
    methods: Iterable[Method] = (),
) -> dict[str, Any]:
    """A dict with the entries

    config: as YAML.
    facts: of the data.
    input_size: size to which the network resizes images.
    encoder: architecture of a text encoder as JSON; its folder may no longer exist.
    vocab_size: number of tokens of the text encoder.
    changes: settings changed when the run was resumed.
    fingerprint: of the data, for the run that resumes; None for a recipe without data.
    files: texts of files from which the structure follows, by the setting that names them.
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
        "files": structure_texts(methods),
    }


def structure_texts(methods: Iterable[Method]) -> dict[str, str]:
    """Setting -> the text of the file that it names."""
    found = {}
    for method in methods:
        for name in method.structure_files:
            path = getattr(method, name)
            if path is not None:
                found[f"methods.{method.key}.{name}"] = Path(path).read_text(encoding="utf-8")
    return found


def structure_settings(config: DictConfig) -> Iterator[str]:
    """The settings of a config that name such files, where they do."""
    for key, node in (config.get("methods") or {}).items():
        names = getattr(find_target(node._target_), "structure_files", ())
        yield from (f"methods.{key}.{name}" for name in names if isinstance(node.get(name), str))


def restored_files(
    config: DictConfig, texts: Mapping[str, str], folder: Path
) -> dict[str, str | None]:
    """Write the texts of a checkpoint into a folder; returns the settings that name them there.
    One without a text is null: nothing but the checkpoint is read."""
    values: dict[str, str | None] = {}
    for number, key in enumerate(structure_settings(config)):
        values[key] = None
        if key in texts:
            path = folder / f"structure_{number}.json"
            path.write_text(texts[key], encoding="utf-8")
            values[key] = str(path)
    return values
