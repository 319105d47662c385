"""Many runs by Hydra: all checked before the first starts, each in a folder of its own under the sweep's."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig

from datamodules.errors import UserError
from recipes import complaints
from recipes.cli import as_command, start
from recipes.config import Faults, hydra_at, loader, resolve_command, settle
from recipes.paths import run_dir_faults

FULL_CHECK = 48  # composing takes about a quarter of a second: beyond so many jobs each value is checked once


def hydra_job(config: DictConfig) -> float | None:
    """One job of a multirun: what Hydra calls. Returns the monitored metric, for sweepers that search."""
    hydra = HydraConfig.get()
    overrides = [str(o) for o in hydra.overrides.task]
    searchpath = [str(o) for o in hydra.overrides.hydra if complaints.key_of(str(o)) == "hydra.searchpath"]
    if hydra.mode == RunMode.MULTIRUN and not any(complaints.key_of(o) == "run_dir" for o in overrides):
        config.run_dir = hydra.runtime.output_dir
    sound = settle(config, [*searchpath, *overrides]).config
    before = HydraConfig.instance().cfg
    # Lightning would repeat the whole multirun on every rank if it knew of Hydra
    HydraConfig.instance().cfg = None
    try:
        alone = [o for o in overrides if complaints.key_of(o) != "run_dir"]
        with as_command([*searchpath, *alone, f"run_dir={sound.run_dir}"]):
            metrics = start(sound, overrides, named=True)
    finally:
        HydraConfig.instance().cfg = before
    return metrics.get(sound.monitor or "val/accuracy")


def redirect_sweep(argv: list[str]) -> list[str]:
    """In a multirun `run_dir=X` names the folder of all jobs, X/0, X/1 …, unless X differs from job to
    job."""
    if not {"-m", "--multirun"} & set(argv):
        return argv
    return [_redirected(argument) for argument in argv]


def _redirected(argument: str) -> str:
    key, _, value = argument.partition("=")
    shared = key == "run_dir" and "${" not in value and "," not in value
    return f"hydra.sweep.dir={value}" if shared else argument


def check_jobs(argv: list[str], root: Path) -> None:
    """Validate the config of every job, the first included, whether its methods may meet, and the folders.

    Raises `Faults`."""
    from recipes.run import check
    from recipes.stages import plan_stages

    overrides = _overrides(argv)
    jobs = list(expand(overrides, root))
    faults: list[str] = []
    folders: dict[str, int] = {}
    for job in jobs:
        try:
            config = resolve_command(job, root).config
            plan_stages(config) if config.get("stages") else check(config)
        except UserError as found:
            faults += str(found).splitlines()
            continue
        folder = config.run_dir
        folders[folder] = folders.get(folder, 0) + 1
    named = any(complaints.key_of(o) == "run_dir" for o in overrides)
    if named:
        faults += [
            f"run_dir: {n} jobs would share '{f}'; let it differ by job, or leave it out"
            for f, n in folders.items()
            if n > 1
        ]
        faults += [line for folder in folders for line in run_dir_faults(folder)]
    for sweep in (o.partition("=")[2] for o in overrides if complaints.key_of(o) == "hydra.sweep.dir"):
        faults += [line for i in range(len(jobs)) for line in run_dir_faults(f"{sweep}/{i}")]
    if faults:
        raise Faults(list(dict.fromkeys(faults)))


def _overrides(argv: list[str]) -> list[str]:
    """The overrides among arguments that Hydra reads. Raises `UserError` for a flag that it does not have."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{' '.join(argv)}: {message}; keys are written KEY=VALUE without dashes, see --help")

    parser.error = refuse  # type: ignore[method-assign]
    return list(parser.parse_args(argv).overrides)


def expand(overrides: list[str], root: Path) -> Iterator[list[str]]:
    """The override lists to check: every combination, or, of more than `FULL_CHECK`, every value beside the
    first ones of all others. Of an interval its ends."""
    with hydra_at(root):
        parser = OverridesParser.create(config_loader=loader())
        choices = [_values(parser, text) for text in overrides]
    total = 1
    for options in choices:
        total *= len(options)
    if total <= FULL_CHECK:
        yield from (list(job) for job in itertools.product(*choices))
        return
    first = [options[0] for options in choices]
    yield first
    for i, options in enumerate(choices):
        for option in options[1:]:
            yield [*first[:i], option, *first[i + 1 :]]


def _values(parser: OverridesParser, text: str) -> list[str]:
    try:
        override = parser.parse_overrides([text])[0]
    except OverrideParseException as error:
        raise UserError(complaints.grammar(text, error)) from error
    if not override.is_sweep_override():
        return [text]
    key = override.get_key_element()
    found = _ends(override) if override.is_interval_sweep() else list(override.sweep_string_iterator())
    if not found:
        raise UserError(f"{text}: names no value at all")
    return [f"{key}={value}" for value in found]


def _ends(override: Override) -> list[Any]:
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    return [interval.start, interval.end]
