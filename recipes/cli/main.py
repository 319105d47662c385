"""The command line: help, one run, or many (`-m`), and how mistakes reach the user.

    python train.py recipe=fixmatch methods.fixmatch.tau=0.9      one run, in this process
    python train.py -m recipe=supervised,fixmatch seed=0,1,2      many, by Hydra's sweepers and
    launchers

    argv | config.resolve | RunSpec | runs.assembly | runs.run | exit code

Every mistake of the user's is a line on stderr and exit code 2, all of them at once and before
anything starts; with `-m` the configs of all jobs are checked before the first one runs. Any other
error is a bug and keeps its traceback. Nothing heavy is imported before it is needed: help must
come at once."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foundation.errors import UserError
from foundation.exit_codes import Terminated, exit_code
from foundation.fast_imports import gc_paused
from recipes.config.groups import CONFIGS

HELP = ("-h", "--help")


def main(argv: Sequence[str], root: Path = CONFIGS) -> int:
    """Run a command line (without the program's name); returns the exit code."""
    if "--version" in argv:
        from recipes.cli.version import version_text

        print(version_text())
        return 0
    # a method of the user's own is found where the user stands, as with python -m
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    if any(argument in HELP for argument in argv):
        return exit_code(lambda: show_help(argv, root))
    return exit_code(lambda: begin(list(argv), root))


def show_help(argv: Sequence[str], root: Path = CONFIGS) -> int:
    """All that there is to choose, or the choices that the command line names; returns the exit
    code."""
    names = [a for a in argv if a not in HELP and "=" not in a and not a.startswith("-")]
    if not names:
        from recipes.cli.help import help_text

        print(help_text(root))
        return 0
    from recipes.cli.topics import topic_text

    print("\n\n".join([topic_text(name, root) for name in names]))
    return 0


def begin(argv: list[str], root: Path) -> int:
    """One run, or what Hydra's flags ask for; returns the exit code."""
    if any(argument.startswith("-") for argument in argv):
        return through_hydra(argv, root)
    from recipes.runs.start import single

    single(argv, root)
    return 0


def through_hydra(argv: list[str], root: Path = CONFIGS) -> int:
    """Runs that need Hydra's own machinery: `-m` with its sweepers and launchers, `--cfg`, `--info`
    and the like. Returns the exit code."""
    with gc_paused():
        import hydra

        from recipes.cli.multirun import conclude, hydra_job, in_hydra_words, prepare, search_path
        from recipes.runs.start import environment
        from recipes.sweeps.process import stopping

        argv, sweep = prepare(in_hydra_words(argv, root), root)
    # without this variable Hydra prints errors in its own way and exits by itself
    full, path = environment("HYDRA_FULL_ERROR", "1"), environment("PYTHONPATH", search_path())
    run = hydra.main(version_base="1.3", config_path=str(root.resolve()), config_name="config")
    with full, path, _arguments([sys.argv[0], *argv]), stopping(sweep):
        try:
            run(hydra_job)()
        except (KeyboardInterrupt, Terminated):
            conclude(sweep, stopped=True)
            raise
        except hydra.errors.HydraException as error:
            raise UserError(" ".join(str(error).split())) from error
    return conclude(sweep)


@contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before
