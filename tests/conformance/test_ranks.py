"""Two gloo ranks with half of every batch against one process with the whole. One start serves all
methods.

The networks have neither batch statistics nor dropout: both depend on which rows share a process.
Views and draws are keyed by the position in the global batch, so both sides see the same samples
through the same views.

    pytest -n 0 -m "slow or not slow" tests/conformance/test_ranks.py --write-numbers

keeps what is measured for the table of docs/reliability.md; `-k dora` does so for one method.
"""

import datetime
import functools
import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import DictConfig

from recipes.config.copies import as_bytes, of_bytes
from tests.support import reliability_numbers
from tests.support.lab import distance, trial
from tests.support.processes import WORLD, start_ranks
from tests.support.settings import APART, CANONICAL, EXACT, TOGETHER
from tests.support.tiny_runs import KINDS, METHODS, declared, method_and_kind, quiet_run_of

STEPS, TOLERANCE = 5, 1e-6
Case = tuple[tuple[str, ...], str]
CASES: list[Case] = [
    *(((), kind) for kind in KINDS),
    *(((key,), kind) for key, kind in method_and_kind()),
    *((keys, kind) for keys in TOGETHER for kind in KINDS),
]
# methods that work on both kinds are tried on texts by the slow trials
LATER = tuple(case for case in CASES if case[1] == "text" and (case[0], "image") in CASES)
QUICK = tuple(case for case in CASES if case not in LATER)


def is_exact(key: str) -> bool:
    """Whether a method declares it, under its settings for this trial."""
    return METHODS[key].build(**CANONICAL.get(key, {}) | EXACT.get(key, {})).declare().ddp_exact


def limit(keys: tuple[str, ...], moved: float) -> float:
    """float32 keeps seven digits: weights that went further than 1 have coarser last places. Of
    several methods one enlarges what the other's sums have rounded, SAM's step along a normalised
    gradient most of all: in double precision it is a hundredth of what it is here."""
    return TOLERANCE * max(1.0, moved) * (20 if len(keys) > 1 else 1)


def config_of(keys: tuple[str, ...], kind: str, world: int) -> DictConfig:
    changes = TOGETHER.get(keys, {}) | {
        f"methods.{key}.{name}": value for key in keys for name, value in EXACT.get(key, {}).items()
    }
    for key in keys:
        changes |= APART.get(key, {})
    changes |= {"trainer.max_steps": STEPS, "trainer.val_every": STEPS, "trainer.devices": world}
    changes |= {"trainer.strategy": "ddp"} if world > 1 else {}
    return quiet_run_of(kind, *keys, **changes)


def observe(config: DictConfig) -> dict[str, Any]:
    """What a process is left with; an error is a result as well, so that the others are still
    tried."""
    try:
        outcome = trial(config)
    except Exception:
        return {"error": traceback.format_exc()}
    return {"state": outcome.state, "logits": outcome.logits, "history": outcome.history}


def _rank(rank: int, folder: str) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=600)  # a rank that waits for one that failed
    dist.init_process_group("gloo", f"file://{folder}/meet", limit, WORLD, rank)
    for path in sorted(Path(folder).glob("*.config")):
        torch.save(observe(of_bytes(path.read_bytes())), path.with_suffix(f".{rank}"))
    dist.destroy_process_group()


@functools.cache
def two_ranks(cases: tuple[Case, ...]) -> dict[Case, list[dict[str, Any]]]:
    """What both ranks were left with, by case."""
    with tempfile.TemporaryDirectory() as folder:
        for i, case in enumerate(cases):
            (Path(folder) / f"{i:03}.config").write_bytes(as_bytes(config_of(*case, WORLD)))
        start_ranks(_rank, folder)
        return {
            case: [torch.load(Path(folder) / f"{i:03}.{rank}") for rank in range(WORLD)]
            for i, case in enumerate(cases)
        }


def param(case: Case) -> Any:
    keys, kind = case
    return pytest.param(
        keys, kind, id="+".join((*keys, kind)), marks=(pytest.mark.slow,) if case in LATER else ()
    )


@pytest.mark.parametrize(("keys", "kind"), map(param, CASES))
def test_two_ranks_with_half_the_batch_equal_one_with_the_whole(keys, kind, request):
    ranks = two_ranks(LATER if (keys, kind) in LATER else QUICK)[keys, kind]
    assert [seen["error"] for seen in ranks if "error" in seen] == []
    # weights, teacher, class statistics, memories of methods: one and the same everywhere
    alike = all(
        torch.equal(value, ranks[1]["state"][name]) for name, value in ranks[0]["state"].items()
    )
    assert alike
    assert all(value.isfinite().all() for value in ranks[0]["state"].values())
    whole = trial(config_of(keys, kind, 1))
    difference = distance(ranks[0]["state"], whole.state)
    moved = distance(whole.start, whole.state)
    exact = all(map(is_exact, keys))
    if request.config.getoption("--write-numbers"):
        found = {"declared": exact, "alike": alike, "distance": difference, "moved": moved}
        reliability_numbers.keep_ranks({"keys": list(keys), "kind": kind, **found})
    assert moved > 1e3 * TOLERANCE
    if not exact:
        assert difference > TOLERANCE, "the method is exact here, and may declare it"
        return
    assert difference <= limit(keys, moved)
    assert distance(ranks[0]["logits"], whole.logits) <= 100 * limit(keys, 1.0)
    for step in range(1, STEPS + 1):
        # logged and evaluated over the global batch
        assert ranks[0]["history"][step] == pytest.approx(whole.history[step], rel=1e-4, abs=1e-6)


def test_some_methods_are_exact():
    exact = {key for key in METHODS if is_exact(key)}
    assert {"fixmatch", "mean_teacher", "ema", "sam"} <= exact
    assert all(declared(key).ddp_exact for key in exact - EXACT.keys())
