"""How a process ends: the exit codes, and what is printed with them."""

import sys
from collections.abc import Callable
from pathlib import Path

from foundation.errors import UserError

JOBS_FAILED = 1  # of a sweep, some
USER_MISTAKE = 2
INTERRUPTED = 130
# sysexits.h: a temporary failure, to be tried again; the same command with resume=auto goes on
TERMINATED = 75


class Terminated(BaseException):
    """A run was told to stop (SIGTERM) and has kept what it had. step: optimizer steps in its
    checkpoint."""

    def __init__(self, folder: Path, step: int):
        super().__init__(folder, step)
        self.folder = folder
        self.step = step


def exit_code(action: Callable[[], int]) -> int:
    """Do something that a process is for; its mistakes become lines, and every end has its code."""
    try:
        return action()
    except UserError as error:
        for single in error.errors:
            for line in str(single).splitlines():
                print(f"error: {line}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as stop:
        print(
            f"terminated: {stop.step} steps are kept; go on with resume={stop.folder} "
            f"run_dir={stop.folder}",
            file=sys.stderr,
        )
        return TERMINATED
