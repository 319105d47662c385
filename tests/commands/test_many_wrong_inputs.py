"""Wrong values for every key of several runs, more than three hundred commands, in one process each
shard: every one is refused in a few lines that name the key, or it trains, evaluates and ends well.
No command ends in a traceback, and none takes long.

    python -m pytest -m slow tests/commands/test_many_wrong_inputs.py
"""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig

from recipes.config.resolve import resolve_command
from tests.support.command import roux, write_csv

SECONDS = 60  # for a run of two steps on a busy machine
LINES = 4
WIDTH = 400

VALUES = (
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "1",
    "1.5",
    "-0.5",
    "2.0",
    "100000000000000000000000",
    "true",
    "abc",
    "''",
    "null",
    "[]",
    "[1,2]",
    "{}",
    "{a: 1}",
    "../elsewhere",
    "'='",
    "ä",
    "x.y.z",
    "${nothing}",
    "${oc.env:HOME}",
    "'a b'",
)
# they name files and folders of the run, decide who trains, or are a whole group
NOT_TRIED = ("run_dir", "resume", "dry_run", "chosen.", "hydra.", "name", "trust")
NOT_TRIED += (
    "trainer.devices",
    "trainer.num_nodes",
)  # 2.0 is two: a second process, or a wait for it

TINY = [
    "trainer.max_steps=2",
    "trainer.val_every=2",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
    "data.batch_size=4",
]
BASES = {
    "fixmatch": [
        "recipe=fixmatch",
        "data=digits",
        "long_tail=logit_adjustment",
        "regularization=[sam,mixup]",
        *TINY,
    ],
    "adversarial": [
        "recipe=supervised",
        "data=digits",
        "adversarial=trades",
        "peft=bitfit",
        "evaluate/attack=pgd",
        *TINY,
    ],
    "tasks": [
        "recipe=supervised",
        "data=digits",
        "data.source.tasks=[label,parity]",
        "multi_task=mgda",
        "averaging=ema",
        *TINY,
    ],
    "text": [
        "recipe=supervised",
        "data=text_file",
        "data.source.train_file=texts.csv",
        "metric_learning=triplet",
        "adversarial=fgm",
        *TINY,
    ],
}
"""Runs of every family; `{key}={value}` is added to one."""


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything in a config that is no mapping."""
    for key in node:
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, ListConfig):
            yield f"{prefix}{key}"


def tried(base: str) -> list[str]:
    """The keys of a run that are given wrong values."""
    config = resolve_command(BASES[base]).config
    return [key for key in leaves(config) if not key.startswith(NOT_TRIED)]


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A call that hangs ends in `TimeoutError`."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(base: str, key: str, value: str, folder: str) -> str | None:
    """What is wrong with the answer to a command; None if it is as it should be."""
    try:
        with limited(SECONDS):
            outcome = roux(*BASES[base], f"{key}={value}", f"run_dir={folder}")
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if outcome.code == 0:
        return None
    if outcome.code != 2:
        return f"exit code {outcome.code}: {outcome.lines[:1]}"
    refusals = [line for line in outcome.lines if line.startswith("error: ")]
    if not 1 <= len(refusals) <= LINES:
        return f"{len(refusals)} lines"
    if max(map(len, refusals)) > WIDTH:
        return f"a line of {max(map(len, refusals))} characters"
    # a column that a file lacks is named with the file, and a file by its name
    meant = value.replace("${oc.env:HOME}", os.environ["HOME"])
    names = {part for part in (*key.split("."), meant) if len(part) > 2}
    if not any(name in line for line in refusals for name in names):
        return f"names no part of the key: {refusals[0]}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(2))
@pytest.mark.parametrize("base", BASES)
def test_wrong_values_are_refused_in_a_line_or_run(base, shard, place):
    write_csv(place / "texts.csv", ["a", "b", "c"] * 20)
    draws = random.Random(f"{base} {shard}")
    faults = []
    for number, key in enumerate(tried(base)):
        value = draws.choice(VALUES)
        found = verdict(base, key, value, str(place / f"run{number}"))
        if found:
            faults.append(f"{key}={value}: {found}")
    assert not faults, "\n".join(faults)


def test_the_commands_are_more_than_three_hundred():
    assert sum(2 * len(tried(base)) for base in BASES) > 300
