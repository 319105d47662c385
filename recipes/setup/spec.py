"""The specification of a run, fixed before anything is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes.config.copies import copied


@dataclass(frozen=True)
class RunSpec:
    """One run. Its config is read-only: what differs is another spec.

    config: resolved. Its `run_dir` and `resume` are final once the run's folder is settled.
    command: the overrides that the user gave.
    stage: the name of the stage, in a recipe of several; empty else.
    weights_of: the stage before, whose last weights this one takes; empty if none.
    """

    config: DictConfig
    command: tuple[str, ...] = ()
    stage: str = ""
    weights_of: str = ""

    def __post_init__(self) -> None:
        OmegaConf.set_readonly(self.config, True)

    @property
    def folder(self) -> Path:
        return Path(self.config.run_dir).expanduser()

    @property
    def resume(self) -> str | None:
        """The run or checkpoint to resume; `auto` until the folder is settled."""
        return self.config.resume

    @property
    def monitor(self) -> str | None:
        """The metric that judges the run, as the user named it. `Assembly.monitor` is final."""
        return self.config.monitor

    @property
    def dry_run(self) -> bool:
        return bool(self.config.dry_run)

    @property
    def accepts_changes(self) -> bool:
        """Whether settings that differ from those of the resumed run are meant."""
        return bool(self.config.get("accept_changes"))

    @property
    def has_stages(self) -> bool:
        return bool(self.config.get("stages"))

    @property
    def run_dir_is_named(self) -> bool:
        """Whether the user chose the folder; else it gets a name of its own."""
        return any(override.startswith("run_dir=") for override in self.command)

    def having(self, values: Mapping[str, Any]) -> "RunSpec":
        """The same with other values, by dotted key."""
        return replace(self, config=with_values(self.config, values))


@dataclass(frozen=True)
class Result:
    """What a run ended with. metrics: the final ones by name. monitor: the metric that judges it,
    if it is one run and not several stages."""

    metrics: dict[str, float]
    monitor: str | None = None


def spec_of(run: "RunSpec | DictConfig", command: Sequence[str] = ()) -> RunSpec:
    """A spec of a config, which is copied; a spec as it is."""
    return run if isinstance(run, RunSpec) else RunSpec(with_values(run, {}), tuple(command))


def with_values(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a config with other values, by dotted key. It is read-only."""
    changed = copied(config)
    OmegaConf.set_readonly(changed, False)
    for key, value in values.items():
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    OmegaConf.set_readonly(changed, True)
    return changed
