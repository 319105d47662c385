"""Configs of tiny runs: methods found in `configs/`, joined from their files.

config = run_of("image", "fixmatch", "mixup", **{"trainer.max_steps": 6})
"""

import csv
import importlib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from recipes.config.copies import as_bytes, of_bytes
from recipes.config.resolve import resolve_command
from recipes.contract import Declaration
from recipes.pairs import Listed, in_company, listed
from tests.support.settings import (
    BLOCKS,
    CANONICAL,
    NETWORK,
    QUIET,
    RUN,
    SEVERAL_BLOCKS,
    SEVERAL_TASKS,
    SHARED,
    TINY,
)
from tests.support.twins import original, twins

METHODS: dict[str, Listed] = listed()
KINDS = ("image", "text")
LIBRARIES = ("typing", "logging", "inspect", "unittest", "statistics", "tarfile", "ast", "asyncio")


def listing(key: str) -> Listed:
    """A method of `configs/`, or the twin of one."""
    return METHODS.get(key) or twins()[key]


@cache
def written(key: str) -> dict[str, Any]:
    """What a method's file says."""
    return listing(key).node()


def canonical(key: str) -> dict[str, Any]:
    """The arguments of a method in the trials, where they are not its defaults."""
    return CANONICAL.get(original(key), {})


@cache
def declared(key: str) -> Declaration:
    """The declaration of a method under its canonical settings."""
    return listing(key).build(**canonical(key)).declare()


def company(*keys: str) -> tuple[str, ...]:
    """The methods, and in front of them those that they require."""
    return tuple(entry.key for entry in in_company([listing(key) for key in keys]))


def method_and_kind() -> list[tuple[str, str]]:
    """Every method with every kind of data it declares."""
    return [(key, kind) for key in METHODS for kind in declared(key).modalities]


def params_by_kind() -> list[Any]:
    """The same as parameters of a trial: texts are slow ones for methods that work on pictures."""
    return [
        pytest.param(
            key,
            kind,
            id=f"{key}-{kind}",
            marks=() if kind == declared(key).modalities[0] else (pytest.mark.slow,),
        )
        for key, kind in method_and_kind()
    ]


@cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="roux-trials-")


# -- data ------------------------------------------------------------------------------------------
def _documented(module: Any) -> Iterator[str]:
    for _, entry in sorted(
        inspect.getmembers(module, lambda e: inspect.isclass(e) or inspect.isfunction(e))
    ):
        yield inspect.getdoc(entry) or ""
        if inspect.isclass(entry):
            yield from (
                inspect.getdoc(m) or ""
                for _, m in sorted(inspect.getmembers(entry, inspect.isfunction))
            )


@cache
def text_file() -> str:
    """A csv of short real texts: docstrings of the standard library, labeled with their module and
    length."""
    path = Path(scratch().name) / "docstrings.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "length"])
        for name in LIBRARIES:
            texts = {
                " ".join(doc.split()[:20]): None
                for doc in _documented(importlib.import_module(name))
            }
            kept = [(text, len(text.split())) for text in list(texts)[:60]]
            rows.writerows(
                [text, name, "long" if words > 9 else "short"] for text, words in kept if words > 3
            )
    return str(path)


# -- configs ---------------------------------------------------------------------------------------
def tiny(kind: str) -> list[str]:
    """The overrides of a tiny run on a kind of data."""
    texts = [f"data.source.train_file={text_file()}"] if kind == "text" else []
    return [*SHARED, *TINY[kind], *texts, "run_dir=unused"]


def circumstances(kind: str, *keys: str) -> dict[str, Any]:
    """What these methods need of a run to work and to show, as changes by dotted key: a network,
    more batches, several tasks."""
    needed = {name: value for key in keys for name, value in RUN.get(original(key), {}).items()}
    several = SEVERAL_TASKS[kind] if any(declared(key).tasks_at_least > 1 for key in keys) else {}
    return network_for(kind, *keys) | needed | several


def command_of(kind: str, *keys: str) -> list[str]:
    """The command of a tiny run with these methods, for Hydra."""
    words = tiny(kind)
    for family, chosen in _by_family(keys).items():
        words.append(
            f"{family}=[{','.join(chosen)}]" if len(chosen) > 1 else f"{family}={chosen[0]}"
        )
    for key in keys:
        words += [f"methods.{key}.{name}={value}" for name, value in canonical(key).items()]
    return words


def _by_family(keys: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(listing(key).family, []).append(key)
    return found


@cache
def _without_methods(kind: str) -> bytes:
    return as_bytes(resolve_command(command_of(kind)).config)


def joined(kind: str, *keys: str) -> DictConfig:
    """What the command of these methods composes to: the run without methods, and the files of
    these put into it. Composing takes longer than a step does; `test_tiny_runs.py` compares."""
    config = of_bytes(_without_methods(kind))
    with open_dict(config):
        config.methods = {key: written(key) | canonical(key) for key in keys}
        for family, chosen in _by_family(keys).items():
            config.chosen[family] = chosen[0] if len(chosen) == 1 else f"[{','.join(chosen)}]"
    return config


def run_of(kind: str, *keys: str, **changes: Any) -> DictConfig:
    """The config of a tiny run with these methods, on a network all of them work on; `changes` by
    dotted key. Methods that these require are added."""
    return _changed(joined(kind, *company(*keys)), circumstances(kind, *keys) | changes)


def _changed(config: DictConfig, changes: dict[str, Any]) -> DictConfig:
    with open_dict(config):
        # the whole of a node before its entries
        for name, value in sorted(changes.items(), key=lambda change: change[0].count(".")):
            OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


def network_for(kind: str, *keys: str) -> dict[str, Any]:
    """What must be said of the network so that each of these methods works on it."""
    networks = [NETWORK.get(original(key), {}) for key in keys]
    wanted = [network[kind] for network in networks if kind in network]
    changes = {f"network.{name}": value for settings in wanted for name, value in settings.items()}
    return changes | blocks_for(kind, *keys)


def blocks_for(kind: str, *keys: str) -> dict[str, Any]:
    """Several blocks, where one of these methods needs them."""
    if not any(original(key) in SEVERAL_BLOCKS for key in keys):
        return {}
    return {f"network.options.{BLOCKS[kind]}": 2}


def quiet_run_of(kind: str, *keys: str, **changes: Any) -> DictConfig:
    """The same on a network in which samples do not meet."""
    network = {f"network.{name}": value for name, value in QUIET[kind].items()}
    network |= blocks_for(kind, *keys)
    config = joined(kind, *company(*keys))
    return _changed(config, circumstances(kind, *keys) | network | changes)
