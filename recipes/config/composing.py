"""What Hydra composes of a command, and of the same choices again without reading files again.

    choices           recipe=fixmatch peft=lora      some thirty files: Hydra composes them once
    values            optimizer.lr=0.1               set in a copy, by Hydra's own rules

Composing takes a quarter of a second. The stages of a recipe, the jobs of a sweep and the answer to
a mistake compose nearly the same several times. What is remembered holds as long as no file of the
config folder changes."""

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from recipes.config.copies import as_bytes, of_bytes

NO_FOLDER = r"provider=.*, path=(.*) is not available"
MOST = 200  # composed configs that a process remembers, 24 kB each
# folders of the configs and of the user, choices -> state of the files then, and the config
_REMEMBERED: OrderedDict[tuple[str, ...], tuple[int, bytes]] = OrderedDict()


@contextmanager
def hydra_at(root: Path) -> Iterator[None]:
    """Hydra's compose interface over a folder of configs."""
    with initialize_config_dir(str(root.resolve()), version_base="1.3", job_name="roux"):
        yield


def loader() -> ConfigLoaderImpl:
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "only inside hydra_at"
    assert isinstance(hydra.config_loader, ConfigLoaderImpl)
    return hydra.config_loader


@contextmanager
def strict_search_path() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NO_FOLDER)
        try:
            yield
        except UserWarning as warning:
            missing = re.match(NO_FOLDER, str(warning))
            path = missing[1] if missing else str(warning)
            line = f"hydra.searchpath: there is no '{path}'; give file:///FOLDER or pkg://PACKAGE"
            raise ValueError(line) from None


def compose_quietly(overrides: Sequence[str]) -> DictConfig:
    """Compose, Hydra's node included; a search path that does not exist is an error, not a
    warning."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [override for override in parsed if not is_choice(override)]
    choices = [override for override in parsed if override not in values]
    with strict_search_path():
        # sweeps are refused by Hydra; its own settings are part of what it composes
        if any(o.is_sweep_override() or o.is_hydra_override() for o in parsed):
            return composed_by_hydra(parsed)
        config = composed_once(choices)
        if searches_further(config):  # there may be more groups than those that were asked for
            return composed_by_hydra(parsed)
    loader()._apply_overrides_to_config(values, config)
    config.hydra.overrides.task = lines_of(parsed)
    form = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        parsed, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
    )
    return config


def is_choice(override: Override) -> bool:
    """Whether an override chooses of a group, as Hydra tells it from a value."""
    if isinstance(override.value(), dict):
        return False
    return loader().repository.group_exists(override.key_or_group)


def lines_of(overrides: Sequence[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def composed_by_hydra(overrides: Sequence[Override]) -> DictConfig:
    return compose("config", overrides=lines_of(overrides), return_hydra_config=True)


def composed_once(choices: Sequence[Override]) -> DictConfig:
    """The config of choices alone."""
    sources = loader().repository.get_sources()
    root = next(source.path for source in sources if source.provider == "main")
    state = state_of(root)
    key = (root, str(Path.cwd()), *lines_of(choices))
    before, kept = _REMEMBERED.pop(key, (None, None))
    if kept is None or before != state:
        kept = as_bytes(composed_by_hydra(choices))
    _REMEMBERED[key] = state, kept  # the last in order
    if len(_REMEMBERED) > MOST:
        _REMEMBERED.popitem(last=False)
    return of_bytes(kept)


def state_of(folder: str) -> int:
    """A number that changes with the name, time of change or size of any file in a folder."""
    files = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a link to nothing
                status = Path(place, name).stat()
                files.append((f"{place}/{name}", status.st_mtime_ns, status.st_size))
    return hash(frozenset(files))


def searches_further(config: DictConfig) -> bool:
    """Whether a composed config has sources beside those that Hydra begins with."""
    return len(config.hydra.runtime.config_sources) != len(loader().repository.get_sources())
