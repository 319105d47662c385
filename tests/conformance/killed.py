"""One method's run, killed by SIGKILL at a chosen step and resumed, beside one that was left alone.

Runs are processes of their own, forked by the server of `tests.support.killed_runs`, which has
imported everything; each gets the words of a command and ends as `train.py` does.
"""

import json
import os
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.killed_runs import differences, state, train
from tests.support.processes import SERVER
from tests.support.settings import CANONICAL
from tests.support.tiny_runs import METHODS, circumstances, company, tiny

STEPS = 8
# checkpoints after steps 3, 4, 6 and 8: the last two moments lie between two of them
EVERY, VALIDATION = 3, 4
MOMENTS = (5, 7)
SHORT = {
    "trainer.max_steps": STEPS,
    "trainer.val_every": VALIDATION,
    # numbers that are not logged yet must survive as well
    "trainer.log_every": 2,
    "checkpoint.every_n_steps": EVERY,
    # momentum and a rate that changes make state of optimizer and scheduler matter
    "scheduler": "cosine",
}


@dataclass(frozen=True)
class Verdict:
    """differing: parts of the two folders that are not bit-identical. error: why there is nothing
    to compare."""

    method: str
    data: str
    step: int
    differing: tuple[str, ...] = ()
    error: str = ""

    @property
    def row(self) -> str:
        found = self.error or ", ".join(self.differing)
        return (
            f"| `{self.method}` | {self.data} | {self.step} | "
            f"{f'**no**: {found}' if found else 'yes'} |"
        )


HEAD = "| method | data | killed in step | bit-identical |\n|---|---|---:|---|"


def moment(key: str, kind: str) -> int:
    """The step in which a method's run is killed: drawn at random, the same every time."""
    return random.Random(f"{key} {kind}").choice(MOMENTS)


def command(key: str, kind: str, folder: Path) -> list[str]:
    """The command of a method's short run."""
    needed = circumstances(kind, key)
    shared = [
        word for word in tiny(kind) if word.partition("=")[0] not in {*needed, *SHORT, "run_dir"}
    ]
    if "network.options" in needed:
        shared = [word for word in shared if not word.startswith("+network.options.")]
    own = [
        f"methods.{key}.{name}={spoken(value)}" for name, value in CANONICAL.get(key, {}).items()
    ]
    said = [f"{name}={value}" for name, value in SHORT.items()]
    # the length and the checkpoints of the run are those of the trial
    extra = [
        word for name, value in needed.items() if name not in SHORT for word in words(name, value)
    ]
    return [
        *shared,
        *said,
        f"{METHODS[key].family}=[{','.join(company(key))}]",
        *own,
        *extra,
        f"run_dir={folder}",
        "resume=auto",
    ]


def words(name: str, value: Any) -> list[str]:
    """The overrides that give a key this value; entries of a mapping are added to it."""
    if isinstance(value, Mapping):
        return [f"+{name}.{entry}={spoken(inner)}" for entry, inner in value.items()]
    return [f"{name}={spoken(value)}"]


def spoken(value: Any) -> str:
    """A value in Hydra's words."""
    if isinstance(value, list):
        return "[" + ",".join(map(spoken, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def train_until(arguments: list[str], said: Path, step: int) -> None:
    """The process of a run that kills itself as a machine's failure would, in the optimizer step
    `step` (1 first)."""
    from recipes.engine.recipe import Recipe

    whole = Recipe.training_step

    def training_step(self: Recipe, *batch: Any) -> Any:
        loss = whole(self, *batch)
        if self.trainer.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    Recipe.training_step = training_step  # type: ignore[method-assign]
    train(arguments, said)


def ended(target: Any, *arguments: Any) -> int:
    """Run a process to its end; returns its exit code."""
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    process.join()
    return int(process.exitcode or 0)


def judge(key: str, kind: str, place: Path) -> Verdict:
    """Kill one method's run, resume it, and compare weights, tables, teacher, optimizer, schedule
    and metrics."""
    step = moment(key, kind)
    whole, killed = place / f"{key}-{kind}-whole", place / f"{key}-{kind}-killed"
    code = ended(train, command(key, kind, whole), whole.with_suffix(".txt"))
    if code:
        return Verdict(key, kind, step, error=last_words(whole))
    code = ended(train_until, command(key, kind, killed), killed.with_suffix(".txt"), step)
    if code != -signal.SIGKILL:
        return Verdict(
            key,
            kind,
            step,
            error=f"ended with {code} where it should be killed: {last_words(killed)}",
        )
    code = ended(train, command(key, kind, killed), killed.with_suffix(".txt"))
    if code:
        return Verdict(key, kind, step, error=last_words(killed))
    return Verdict(key, kind, step, tuple(sorted(differences(state(killed), state(whole)))))


def last_words(folder: Path) -> str:
    return folder.with_suffix(".txt").read_text(encoding="utf-8").strip()[-300:].replace("\n", " ")
