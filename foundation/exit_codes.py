"""How a process ends: the exit codes, and what is printed with them."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from foundation.errors import UserError

JOBS_FAILED = 1  # of a sweep, some
USER_MISTAKE = 2
UNREADABLE = 3  # some inputs of a prediction; the table is written
INTERRUPTED = 130
# sysexits.h: an error of the system; a process of the run was killed
PROCESS_LOST = 71
# sysexits.h: a temporary failure, to be retried; the same command with resume=auto continues
TERMINATED = 75
TO_CONTINUE = "the same command with resume=auto continues"
# what `end_now` does first, e.g. end the processes that this one has started
BEFORE_END: list[Callable[[], Any]] = []


class Terminated(BaseException):
    """SIGTERM ended a run or a sweep, and what was done is saved. text: what is printed."""


class ProcessLost(Exception):
    """A process of the run was killed or failed. Its text is one line.

    code: the exit code of this process.
    """

    def __init__(self, text: str, code: int = PROCESS_LOST):
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text


def for_terminal(line: str) -> str:
    r"""A line as a terminal may show it: what it would obey and not show is an escape, `\x1b` for
    the start of a colour, `\u202e` for the mark that reverses text."""
    shown = [c if c.isprintable() else c.encode("unicode_escape").decode() for c in line]
    return "".join(shown)


def print_errors(errors: Sequence[UserError]) -> None:
    """A line on stderr for each that the user has not seen yet."""
    for error in errors:
        if not error.printed:
            for line in str(error).split("\n"):
                print(f"error: {for_terminal(line)}", file=sys.stderr, flush=True)
            error.printed = True


def exit_code(action: Callable[[], int]) -> int:
    """Run the action of a process. Prints the user's mistakes one a line, and returns the exit
    code."""
    try:
        return action()
    except UserError as error:
        print_errors(error.errors)
        return USER_MISTAKE
    except ProcessLost as lost:
        print(f"error: {lost}", file=sys.stderr)
        return lost.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as stop:
        print(f"terminated: {stop}", file=sys.stderr)
        return TERMINATED


# -- SIGTERM ---------------------------------------------------------------------------------------
def end_at_sigterm(silent: bool = False) -> None:
    """From now on SIGTERM ends this process at once with `TERMINATED`, in imports, downloads and
    wherever else nothing has to be saved. A run that trains, and a sweep, replace the handler
    while they have to.

    silent: without a line, for further ranks.
    """

    def end_now(*_: Any) -> None:
        # an exception could get lost in what is under way, e.g. in an import that catches it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for action in BEFORE_END:
            with contextlib.suppress(Exception):
                action()
        end_process(TERMINATED, "" if silent else f"terminated: {TO_CONTINUE}")

    signal.signal(signal.SIGTERM, end_now)


def end_process(code: int, line: str = "") -> None:
    """End this process from any thread or signal handler, without a traceback of what is under
    way. line: printed on stderr."""
    for stream in (sys.stdout, sys.stderr):
        # the signal may have come in the middle of a write, a closed stream be none
        with contextlib.suppress(Exception):
            stream.flush()
    if line:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
    os._exit(code)
