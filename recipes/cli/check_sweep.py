"""The jobs of a sweep are checked before the first one starts."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError, raise_all
from foundation.exit_codes import print_errors
from recipes.checkpointing.files import run_dir_errors
from recipes.config.composing import hydra_at, loader
from recipes.config.keys import key_of
from recipes.config.messages import not_an_override
from recipes.config.resolve import resolve_command
from recipes.config.validation import target_errors
from recipes.runs.start import notify
from recipes.setup.spec import RunSpec
from recipes.sweeps.record import NAME as JOB
from recipes.sweeps.record import identity, jobs_of

GRID, SEARCH = "hydra_plugins.roux.Grid", "hydra_plugins.roux.Optuna"
ACCURACY = "val/accuracy"
# composing takes about a quarter of a second: beyond so many jobs each value is checked once
FULL_CHECK = 48


def check_jobs(jobs: Sequence[Sequence[str]], root: Path) -> tuple[list[RunSpec], list[str]]:
    """The specs of all jobs and the metrics that judge them. Validates each, the first included,
    and whether its methods may meet. Wrong names of a job are printed before seconds of imports.
    Raises `ConfigErrors`."""
    specs: list[RunSpec] = []
    monitors: list[str] = []
    errors: list[UserError] = []
    lines: list[str] = []
    printed: set[str] = set()

    def tell(config: DictConfig, found: list[UserError]) -> None:
        print_errors([error for error in found if str(error) not in printed])
        printed.update(map(str, found))

    for job in jobs:
        try:
            command = resolve_command(job, root, tell)
            spec = RunSpec(command.config, tuple(job))
            monitors.append(check_job(spec))
        except UserError as refusal:
            errors += refusal.errors
        else:
            specs.append(spec)
            lines += command.lines
    raise_all(errors)
    notify(list(dict.fromkeys(lines)))
    return specs, monitors


def check_job(spec: RunSpec) -> str:
    """Raise `UserError` if a run could not begin. Returns the metric that judges it."""
    from recipes.runs.run import check
    from recipes.runs.stages import plan_stages

    if spec.has_stages:
        plan_stages(spec)
        return spec.monitor or ACCURACY
    return check(spec)


def own_folder_errors(node: DictConfig, specs: Sequence[RunSpec]) -> list[UserError]:
    """Whether the jobs, numbered in the sweep's folder, may be written: their folders are new, or
    those of the same sweep."""
    sweep = node.sweep.dir
    errors = run_dir_errors(sweep)[:1]
    if errors:
        return errors
    for number in range(len(specs)):
        if not (Path(sweep).expanduser() / str(number) / JOB).is_file():
            errors += run_dir_errors(f"{sweep}/{number}")
    return errors


def named_folder_errors(sweep: Path, specs: Sequence[RunSpec]) -> list[UserError]:
    """Whether the jobs have folders of their own that may be written."""
    errors: list[UserError] = []
    folders = Counter(spec.config.run_dir for spec in specs)
    for folder, count in folders.items():
        if count > 1:
            problem = f"{count} jobs would share '{folder}'"
            errors.append(UserError("run_dir", problem, "let it differ by job, or leave it out"))
    begun = {job.run_dir for job in jobs_of(sweep).values()}
    for folder in folders:
        if str(Path(folder).absolute()) not in begun:
            errors += run_dir_errors(folder)
    return errors


def same_job_errors(specs: Sequence[RunSpec]) -> list[UserError]:
    """Jobs that differ only in what leaves the result as it is, such as their folder: a sweep takes
    them for one job and would run one of them."""
    commands: dict[frozenset[str], set[frozenset[str]]] = {}
    for spec in specs:
        commands.setdefault(identity(spec.command), set()).add(frozenset(spec.command))
    for same in commands.values():
        if len(same) > 1:
            everywhere = frozenset.intersection(*same)
            keys = sorted({key_of(text) for command in same for text in command - everywhere})
            problem = f"{len(same)} jobs differ in nothing else, and one of them would run"
            return [UserError(", ".join(keys), problem, "vary a setting as well, e.g. seed=0,1")]
    return []


def sweeper_errors(
    node: DictConfig, overrides: Sequence[str], specs: Sequence[RunSpec], root: Path
) -> list[UserError]:
    """What is wrong with the settings of our own sweepers; those of others are theirs to check."""
    target = str(node.sweeper.get("_target_"))
    sweeper: Any = OmegaConf.to_container(node.sweeper)
    if target not in (GRID, SEARCH):
        return []
    errors = target_errors("hydra.sweeper", sweeper)
    if target == GRID:
        return errors + _interval_errors(overrides, root)
    pruner = sweeper.get("pruner")
    if pruner != "none" and any(spec.has_stages for spec in specs):
        problem = "a recipe of stages is several runs, whose validations do not compare"
        errors.append(UserError(f"hydra.sweeper.pruner={pruner}", problem, "expected none"))
    return errors


def _interval_errors(overrides: Sequence[str], root: Path) -> list[UserError]:
    """A grid needs single values."""
    with hydra_at(root):
        parsed = OverridesParser.create(config_loader=loader()).parse_overrides(list(overrides))
    problem = "an interval has no last value"
    remedy = "name some, or search it: add hydra/sweeper=roux_optuna"
    intervals = [override for override in parsed if override.is_interval_sweep()]
    return [UserError(str(override.input_line), problem, remedy) for override in intervals]


def expand(overrides: list[str], root: Path) -> Iterator[list[str]]:
    """The override lists to check: every combination, or, of more than `FULL_CHECK`, every value
    beside the first ones of all others. Of an interval its ends."""
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
        raise not_an_override(text, error) from error
    if not override.is_sweep_override():
        return [text]
    key = override.get_key_element()
    if override.is_interval_sweep():
        values = _ends(override)
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise UserError(text, "names no value at all")
    return [f"{key}={value}" for value in values]


def _ends(override: Override) -> list[Any]:
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    return [interval.start, interval.end]
