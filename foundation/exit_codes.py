"""How a process ends: the exit codes, and what is printed with them."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from foundation.errors import UserError

JOBS_FAILED = 1  # of a sweep, some
USER_MISTAKE = 2
UNREADABLE = 3  # some inputs of a prediction; the table is written
INTERRUPTED = 130
# sysexits.h: a temporary failure, to be retried; the same command with resume=auto continues
TERMINATED = 75


class Terminated(BaseException):
    """A run received SIGTERM and has saved a checkpoint.

    step: optimizer steps in that checkpoint.
    """

    def __init__(self, folder: Path, step: int):
        super().__init__(folder, step)
        self.folder = folder
        self.step = step


def print_errors(errors: Sequence[UserError]) -> None:
    """A line on stderr for each that the user has not seen yet."""
    for error in errors:
        if not error.printed:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr, flush=True)
            error.printed = True


def exit_code(action: Callable[[], int]) -> int:
    """Run the action of a process. Prints the user's mistakes one a line, and returns the exit
    code."""
    try:
        return action()
    except UserError as error:
        print_errors(error.errors)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as stop:
        print(
            f"terminated: {stop.step} steps are saved; continue with resume={stop.folder} "
            f"run_dir={stop.folder}",
            file=sys.stderr,
        )
        return TERMINATED
