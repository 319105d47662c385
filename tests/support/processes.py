"""Processes that begin with everything imported, and two gloo ranks of them, for what must not
depend on how many there are."""

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2
SERVER = multiprocessing.get_context("forkserver")
ENGINE = ["recipes.runs.run", "recipes.runs.stages", "recipes.config.resolve"]
# a server imports them once and forks: time goes into the work
SERVER.set_forkserver_preload([*ENGINE, "timm", "recipes.networks.text"])


def start_ranks(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(rank, *arguments)` in two processes, and wait for both. Raises where one
    raises."""
    mp.start_processes(function, arguments, nprocs=WORLD, start_method="forkserver")


def _rank(rank: int, observe: Callable[[int, int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    torch.save(observe(rank, WORLD), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@functools.cache
def on_two_ranks(observe: Callable[[int, int], Any]) -> list[Any]:
    """What `observe(rank, 2)`, a function of a module, returns on either rank; started once for all
    tests that ask."""
    with tempfile.TemporaryDirectory() as folder:
        start_ranks(_rank, observe, folder)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]
