"""Many runs by Hydra: all checked before the first starts, each in a folder of its own under the
sweep's."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError, raise_all
from foundation.exit_codes import JOBS_FAILED
from recipes.cli.check_sweep import (
    ACCURACY,
    SEARCH,
    check_jobs,
    expand,
    named_folder_errors,
    own_folder_errors,
    same_job_errors,
    sweeper_errors,
)
from recipes.config.composing import compose_quietly, hydra_at
from recipes.config.groups import to_hydra
from recipes.config.keys import key_of, missing_part
from recipes.config.renamed import renamed_overrides
from recipes.config.resolve import settle
from recipes.config.stage_keys import (
    drop_stage_keys,
    split_stage_keys,
    stage_keys_from_hydra,
    stage_keys_to_hydra,
)
from recipes.runs.start import notify, start
from recipes.setup.spec import RunSpec
from recipes.sweeps.process import as_override, await_ends, run_job, search_path
from recipes.sweeps.record import jobs_of

__all__ = [
    "conclude",
    "hydra_job",
    "in_hydra_words",
    "prepare",
    "redirect_sweep",
    "search_path",
]
MULTIRUN = {"-m", "--multirun"}


def in_hydra_words(argv: Sequence[str], root: Path) -> list[str]:
    """Arguments as Hydra takes them: today's keys, its names of groups, keys of single stages under
    a root of their own."""
    current, lines = renamed_overrides(argv)
    notify(lines)
    return stage_keys_to_hydra(to_hydra(current, root))


def hydra_job(config: DictConfig) -> float | None:
    """One job: what Hydra calls, wherever its launcher is. In a multirun the job gets a process of
    its own, and what becomes of it is noted, not raised. Returns the monitored metric, for sweepers
    of others that search."""
    hydra = HydraConfig.get()
    overrides = [str(override) for override in hydra.overrides.task]
    own_path = [o for o in map(str, hydra.overrides.hydra) if key_of(o) == "hydra.searchpath"]
    run_dir = config.run_dir
    if hydra.mode == RunMode.MULTIRUN and not any(key_of(o) == "run_dir" for o in overrides):
        run_dir = hydra.runtime.output_dir
    if hydra.mode == RunMode.MULTIRUN and not config.dry_run:
        # checked before the sweep began and again where it runs: here nothing heavy is imported
        folder = Path(hydra.runtime.output_dir)
        absolute = Path(run_dir).expanduser().absolute()
        return run_job([*own_path, *overrides], folder, absolute, config_root(hydra)).value
    return run_here(config, own_path, overrides, run_dir)


def run_here(
    config: DictConfig, own_path: Sequence[str], overrides: Sequence[str], run_dir: str
) -> float | None:
    """A job in this process, from the config that Hydra composed."""
    drop_stage_keys(config)
    config.run_dir = run_dir
    common, stage_keys = split_stage_keys(map(stage_keys_from_hydra, overrides))
    command = settle(config, [*own_path, *common], stage_keys)
    notify(command.lines)
    spec = RunSpec(command.config, tuple(overrides))
    outer = HydraConfig.instance().cfg
    # Lightning would repeat the command in its own way if it knew of Hydra
    HydraConfig.instance().cfg = None
    try:
        result = start(spec)
    finally:
        HydraConfig.instance().cfg = outer
    return result.metrics.get(result.monitor or ACCURACY)


def config_root(hydra: Any) -> Path:
    """The folder of configs that this command was composed of."""
    main = [source.path for source in hydra.runtime.config_sources if source.provider == "main"]
    return Path(main[0])


def prepare(argv: list[str], root: Path) -> tuple[list[str], Path | None]:
    """Check everything that can be checked before the first job; returns the arguments for Hydra,
    and the folder of the sweep, if it is one. Raises `UserError`."""
    argv = redirect_sweep(argv)
    overrides = _overrides(argv)
    jobs = list(expand(overrides, root))
    specs, monitors = check_jobs(jobs, root)
    argv = [added(text, specs) for text in argv]
    if not MULTIRUN & set(argv):
        return argv, None
    node = _hydra_node([added(text, specs) for text in jobs[0]], root)
    sweep = Path(node.sweep.dir).expanduser().absolute()
    named = any(key_of(override) == "run_dir" for override in overrides)
    errors = sweeper_errors(node, overrides, specs, root)
    errors += named_folder_errors(sweep, specs) if named else own_folder_errors(node, specs)
    errors += same_job_errors(specs)
    raise_all(errors)
    settled = [as_override("hydra.sweep.dir", sweep)]
    if node.sweeper.get("_target_") == SEARCH and node.sweeper.metric is None:
        settled.append(as_override("hydra.sweeper.metric", _common_monitor(monitors)))
    return [*argv, *settled], sweep


def _common_monitor(monitors: Sequence[str]) -> str:
    """The metric that all jobs are judged by."""
    names = sorted(set(monitors))
    if len(names) > 1:
        problem = f"the jobs are judged by {', '.join(names)}"
        raise UserError("hydra.sweeper.metric", problem, "name one that all have")
    return names[0]


def conclude(sweep: Path | None, stopped: bool = False) -> int:
    """Tell how a sweep went, if the command was one; returns the exit code. stopped: by a
    signal."""
    if sweep is None or not jobs_of(sweep):
        return 0
    if stopped:
        await_ends(sweep)
    from recipes.sweeps.summary import summarize

    return 0 if summarize(sweep, sys.argv[1:]) else JOBS_FAILED


def redirect_sweep(argv: list[str]) -> list[str]:
    """In a multirun `run_dir=X` names the folder of all jobs, X/0, X/1 …, unless X differs from job
    to job."""
    flags = [argument for argument in argv if argument in MULTIRUN]
    if not flags:
        return argv
    # in front: Hydra's parser gives up on overrides that stand on both sides of a flag
    return [*flags, *(_redirected(argument) for argument in argv if argument not in flags)]


def _redirected(argument: str) -> str:
    key, _, value = argument.partition("=")
    # an interpolation may differ from job to job, e.g. own/${seed}
    shared = key == "run_dir" and "${" not in value and _is_one_value(argument)
    return f"hydra.sweep.dir={value}" if shared else argument


def _is_one_value(argument: str) -> bool:
    """Whether an override sets one number or text, by Hydra's grammar: in quotes a comma separates
    nothing. False for what is no override, which the check of the jobs refuses."""
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except OverrideParseException:
        return False
    # a sweep has an object of its own here, as have lists and mappings
    return isinstance(override.value(), str | int | float | QuotedString)


def added(argument: str, specs: Sequence[RunSpec]) -> str:
    """An argument as Hydra takes it, which composes a recipe without its stages: a key of a method
    that only they have is one to add."""
    key = key_of(argument)
    if not argument.startswith(key):
        return argument
    of_a_stage = any(spec.has_stages and missing_part(spec.config, key) for spec in specs)
    return f"++{argument}" if of_a_stage else argument


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


def _overrides(argv: list[str]) -> list[str]:
    """The overrides among arguments that Hydra reads. Raises `UserError` for a flag that it does
    not have."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        remedy = "keys are written KEY=VALUE without dashes, see --help"
        raise UserError(" ".join(argv), message, remedy)

    parser.error = refuse  # type: ignore[method-assign]
    return list(parser.parse_args(argv).overrides)
