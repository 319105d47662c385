"""Runs that end by SIGKILL just before the n-th change that they make to their folder: a file that
is opened for writing, renamed or removed, a folder that is made. Python's audit events tell of all
of them, whoever makes them.

A chain of kills: one at a write, one at another write of the resumed run, two at random moments;
then the run comes to its end and must be bit-identical to the one that nobody disturbed.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.killed import ended, last_words
from tests.support.killed_runs import differences, state, train
from tests.support.processes import SERVER

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate")
NEVER = 0
MOMENTS = 2  # random ones in a chain


@dataclass(frozen=True)
class Outcome:
    """kills: where the run was killed. differing: parts that are not bit-identical. error: why
    there is nothing to compare."""

    name: str
    kills: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    error: str = ""

    @property
    def row(self) -> str:
        found = self.error or ", ".join(self.differing)
        verdict = f"**no**: {found}" if found else "yes"
        return f"| `{self.name}` | {len(self.kills)} | {'; '.join(self.kills)} | {verdict} |"


HEAD = "| run | kills | killed before, or in second | bit-identical |\n|---|---:|---|---|"


def changed_path(event: str, arguments: Sequence[Any]) -> str:
    """The path that an audit event is about to change; empty for any other event."""
    if event == "open":
        path, _, flags = arguments
        return os.fsdecode(path) if isinstance(path, str | bytes) and flags & WRITING else ""
    if event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
        return os.fsdecode(arguments[0])
    return ""


def train_until_write(arguments: list[str], said: Path, folder: Path, last: int) -> None:
    """The process of a run that is killed before its change number `last` of the folder; `NEVER`:
    it comes to its end. What it changes is listed in a file."""
    inside = f"{folder}/"
    descriptor = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    done = 0

    def watch(event: str, details: Sequence[Any]) -> None:
        nonlocal done
        path = changed_path(event, details)
        if not path.startswith(inside):
            return
        done += 1
        os.write(descriptor, f"{event.removeprefix('os.')} {path.removeprefix(inside)}\n".encode())
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train(arguments, said)


def log_of(folder: Path) -> Path:
    return folder.with_suffix(".writes")


def writes(folder: Path) -> list[str]:
    """What the last process of a run changed, in order."""
    return log_of(folder).read_text(encoding="utf-8").splitlines()


def run_until(arguments: list[str], folder: Path, last: int) -> int:
    """A process of a run; returns its exit code."""
    words = folder.with_suffix(".txt")
    return ended(train_until_write, [*arguments, f"run_dir={folder}"], words, folder, last)


def run_for(arguments: list[str], folder: Path, seconds: float) -> int:
    """A process of a run, killed after so many seconds unless it has ended; returns its exit
    code."""
    command = [*arguments, f"run_dir={folder}"]
    process = SERVER.Process(target=train, args=(command, folder.with_suffix(".txt")))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return int(process.exitcode or 0)


@dataclass(frozen=True)
class Whole:
    """The run that nobody disturbed. arguments: of its command, without run_dir."""

    name: str
    arguments: list[str]
    place: Path
    writes: list[str]
    seconds: float
    state: dict[str, Any]

    def compared(self, folder: Path, kills: Sequence[str]) -> Outcome:
        """Let a killed run come to its end, and compare."""
        if run_until(self.arguments, folder, NEVER):
            return Outcome(self.name, tuple(kills), error=last_words(folder))
        differing = tuple(sorted(differences(self.state, state(folder))))
        return Outcome(self.name, tuple(kills), differing)

    def killed_at(self, number: int) -> Outcome:
        """Killed before one write, resumed, compared."""
        folder = self.place / f"{self.name}-{number}"
        code = run_until(self.arguments, folder, number)
        place = f"{number}: {self.writes[number - 1]}"
        if code != -signal.SIGKILL:
            return Outcome(self.name, (place,), error=f"ended with {code}: {last_words(folder)}")
        return self.compared(folder, [place])

    def chain(self, first: int, source: random.Random) -> Outcome:
        """Killed before the write number `first`, before another one, and at random moments."""
        folder = self.place / f"{self.name}-chain"
        kills = []
        for number in (first, source.randint(1, len(self.writes))):
            if run_until(self.arguments, folder, number) == -signal.SIGKILL:
                kills.append(f"{number}: {writes(folder)[-1]}")
        for _ in range(MOMENTS):
            seconds = source.uniform(0, self.seconds)
            if run_for(self.arguments, folder, seconds) == -signal.SIGKILL:
                kills.append(f"{seconds:.2f} s")
        return self.compared(folder, kills)


def undisturbed(name: str, arguments: list[str], place: Path) -> Whole:
    """Raises RuntimeError with the run's words where it fails."""
    folder = place / f"{name}-whole"
    begun = time.monotonic()
    if run_until(arguments, folder, NEVER):
        raise RuntimeError(last_words(folder))
    seconds = time.monotonic() - begun
    return Whole(name, arguments, place, writes(folder), seconds, state(folder))
