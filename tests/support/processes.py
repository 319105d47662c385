"""Two gloo ranks on this machine, for what must not depend on how many there are."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


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
        mp.spawn(_rank, (observe, folder), nprocs=WORLD)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(WORLD)]
