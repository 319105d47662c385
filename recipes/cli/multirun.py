"""Many runs by Hydra: all checked before the first starts, each in a folder of its own under the
sweep's."""

import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError
from foundation.exit_codes import JOBS_FAILED
from recipes.config import messages as complaints
from recipes.config.overrides import compose_quietly, hydra_at, loader
from recipes.config.resolve import Faults, resolve_command, settle
from recipes.config.validation import target_faults
from recipes.runs.checkpoint_files import run_dir_faults
from recipes.runs.start import start
from recipes.sweeps.process import run_job, said, search_path
from recipes.sweeps.record import NAME as JOB
from recipes.sweeps.record import jobs_of

__all__ = [
    "check_jobs",
    "conclude",
    "expand",
    "hydra_job",
    "prepare",
    "redirect_sweep",
    "search_path",
]
GRID, SEARCH = "hydra_plugins.roux.Grid", "hydra_plugins.roux.Optuna"
# composing takes about a quarter of a second: beyond so many jobs each value is checked once
FULL_CHECK = 48


def hydra_job(config: DictConfig) -> float | None:
    """One job: what Hydra calls, wherever its launcher is. In a multirun the job gets a process of
    its own, and what becomes of it is noted, not raised. Returns the monitored metric, for sweepers
    of others that search."""
    hydra = HydraConfig.get()
    overrides = [str(o) for o in hydra.overrides.task]
    searchpath = [
        str(o) for o in hydra.overrides.hydra if complaints.key_of(str(o)) == "hydra.searchpath"
    ]
    if hydra.mode == RunMode.MULTIRUN and not any(
        complaints.key_of(o) == "run_dir" for o in overrides
    ):
        config.run_dir = hydra.runtime.output_dir
    if hydra.mode == RunMode.MULTIRUN and not config.dry_run:
        # checked before the sweep began and again where it runs: here nothing heavy is imported
        run_dir = Path(config.run_dir).expanduser().absolute()
        return run_job(
            [*searchpath, *overrides], Path(hydra.runtime.output_dir), run_dir, _root(hydra)
        ).value
    sound = settle(config, [*searchpath, *overrides]).config
    before = HydraConfig.instance().cfg
    # Lightning would repeat the command in its own way if it knew of Hydra
    HydraConfig.instance().cfg = None
    try:
        return start(sound, overrides).get(sound.monitor or "val/accuracy")
    finally:
        HydraConfig.instance().cfg = before


def _root(hydra: Any) -> Path:
    """The folder of configs that this command was composed of."""
    return Path(
        next(source.path for source in hydra.runtime.config_sources if source.provider == "main")
    )


def prepare(argv: list[str], root: Path) -> tuple[list[str], Path | None]:
    """Check everything that can be checked before the first job; returns the arguments for Hydra,
    and the folder of the sweep, where it is one. Raises `UserError`."""
    argv = redirect_sweep(argv)
    overrides = _overrides(argv)
    jobs = list(expand(overrides, root))
    configs = check_jobs(jobs, root)
    argv, first = ([_added(text, configs) for text in texts] for texts in (argv, jobs[0]))
    if not {"-m", "--multirun"} & set(argv):
        return argv, None
    node = _hydra_node(first, root)
    sweep = Path(node.sweep.dir).expanduser().absolute()
    named = any(complaints.key_of(o) == "run_dir" for o in overrides)
    faults = _sweeper_faults(node, overrides, configs, root) + _folder_faults(
        node.sweep.dir, configs, named
    )
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    settled = [said("hydra.sweep.dir", sweep)]
    if node.sweeper.get("_target_") == SEARCH and node.sweeper.metric is None:
        settled.append(said("hydra.sweeper.metric", _judged_by(configs)))
    return [*argv, *settled], sweep


def _judged_by(configs: Sequence[DictConfig]) -> str:
    """The metric that all jobs are judged by: checking them has settled it."""
    names = sorted({config.monitor or "val/accuracy" for config in configs})
    if len(names) > 1:
        raise UserError(
            f"hydra.sweeper.metric: the jobs are judged by {', '.join(names)}; name one that all "
            "have"
        )
    return names[0]


def conclude(sweep: Path | None) -> int:
    """Tell how a sweep went, where the command was one; returns the exit code."""
    if sweep is None or not jobs_of(sweep):
        return 0
    from recipes.sweeps.summary import summarize

    return 0 if summarize(sweep, sys.argv[1:]) else JOBS_FAILED


def redirect_sweep(argv: list[str]) -> list[str]:
    """In a multirun `run_dir=X` names the folder of all jobs, X/0, X/1 …, unless X differs from job
    to job."""
    flags = [argument for argument in argv if argument in ("-m", "--multirun")]
    if not flags:
        return argv
    # in front: Hydra's parser gives up on overrides that stand on both sides of a flag
    return [*flags, *(_redirected(argument) for argument in argv if argument not in flags)]


def _redirected(argument: str) -> str:
    key, _, value = argument.partition("=")
    shared = key == "run_dir" and "${" not in value and "," not in value
    return f"hydra.sweep.dir={value}" if shared else argument


def _added(argument: str, configs: Sequence[DictConfig]) -> str:
    """An argument as Hydra takes it, which composes a recipe without its stages: a key of a method
    that only they have is one to add."""
    key = complaints.key_of(argument)
    waits = any(config.get("stages") and complaints.lacks(config, key) for config in configs)
    return f"++{argument}" if waits and argument.startswith(key) else argument


def check_jobs(jobs: Sequence[Sequence[str]], root: Path) -> list[DictConfig]:
    """Validate the config of every job, the first included, and whether its methods may meet.
    Raises `Faults`."""
    from recipes.runs.run import check
    from recipes.runs.stages import plan_stages

    faults: list[str] = []
    configs: list[DictConfig] = []
    for job in jobs:
        try:
            config = resolve_command(job, root).config
            plan_stages(config) if config.get("stages") else check(config)
            configs.append(config)
        except UserError as found:
            faults += str(found).splitlines()
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    return configs


def _folder_faults(sweep: str, configs: Sequence[DictConfig], named: bool) -> list[str]:
    """Whether the jobs have folders of their own that may be written: new ones, or those of the
    same sweep."""
    if not named:
        own = [p.name for p in Path(sweep).expanduser().glob("*") if (p / JOB).is_file()]
        numbers = (str(i) for i in range(len(configs)))
        return run_dir_faults(sweep)[:1] or [
            line for i in numbers if i not in own for line in run_dir_faults(f"{sweep}/{i}")
        ]
    folders = Counter(config.run_dir for config in configs)
    shared = [(folder, n) for folder, n in folders.items() if n > 1]
    faults = [
        f"run_dir: {n} jobs would share '{f}'; let it differ by job, or leave it out"
        for f, n in shared
    ]
    begun = {job.run_dir for job in jobs_of(Path(sweep).expanduser()).values()}
    return faults + [
        line for f in folders if str(Path(f).absolute()) not in begun for line in run_dir_faults(f)
    ]


def _hydra_node(overrides: Sequence[str], root: Path) -> DictConfig:
    """Hydra's own part of a job's config, resolved."""
    with hydra_at(root):
        composed = compose_quietly(list(overrides))
        HydraConfig.instance().set_config(composed)
        try:
            return OmegaConf.create(
                {
                    "sweep": {"dir": composed.hydra.sweep.dir},
                    "sweeper": OmegaConf.to_container(composed.hydra.sweeper, resolve=True),
                }
            )
        finally:
            HydraConfig.instance().cfg = None


def _sweeper_faults(
    node: DictConfig, overrides: Sequence[str], configs: Sequence[DictConfig], root: Path
) -> list[str]:
    """What is wrong with the settings of our own sweepers; those of others are theirs to check."""
    target = str(node.sweeper.get("_target_"))
    sweeper: Any = OmegaConf.to_container(node.sweeper)
    if target not in (GRID, SEARCH):
        return []
    faults = target_faults("hydra.sweeper", sweeper)
    with hydra_at(root):
        parsed = OverridesParser.create(config_loader=loader()).parse_overrides(list(overrides))
    if target == GRID:
        faults += [
            f"{o.input_line}: an interval has no last value; name some, or search it: add "
            "hydra/sweeper=roux_optuna"
            for o in parsed
            if o.is_interval_sweep()
        ]
    elif sweeper.get("pruner") != "none" and any(config.get("stages") for config in configs):
        faults.append(
            f"hydra.sweeper.pruner={sweeper.get('pruner')}: a recipe of stages is several runs, "
            "whose validations "
            "do not compare; expected none"
        )
    return faults


def _overrides(argv: list[str]) -> list[str]:
    """The overrides among arguments that Hydra reads. Raises `UserError` for a flag that it does
    not have."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(
            f"{' '.join(argv)}: {message}; keys are written KEY=VALUE without dashes, see --help"
        )

    parser.error = refuse  # type: ignore[method-assign]
    return list(parser.parse_args(argv).overrides)


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
        raise UserError(complaints.grammar(text, error)) from error
    if not override.is_sweep_override():
        return [text]
    key = override.get_key_element()
    found = (
        _ends(override) if override.is_interval_sweep() else list(override.sweep_string_iterator())
    )
    if not found:
        raise UserError(f"{text}: names no value at all")
    return [f"{key}={value}" for value in found]


def _ends(override: Override) -> list[Any]:
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    return [interval.start, interval.end]
