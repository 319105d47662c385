"""Processes that begin with everything imported, and two gloo ranks of them, for what must not
depend on how many there are."""

import functools
import multiprocessing
import os
import runpy
import sys
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


def _interpret(words: list[str], folder: str, log: str) -> None:
    os.chdir(folder)
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        # data workers look for the program from the folder in which this server began
        program = Path(words[0]).absolute()
        sys.argv, sys.path[0] = [str(program), *words[1:]], str(program.resolve().parent)
        runpy.run_path(str(program), run_name="__main__")


def python(words: list[str], folder: Path) -> tuple[int, str]:
    """(exit code, what it printed) of `python WORDS` in a folder, without the seconds that a fresh
    process takes to import the engine."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        process = SERVER.Process(target=_interpret, args=(words, str(folder), str(log)))
        process.start()
        process.join()
        return process.exitcode or 0, log.read_text(encoding="utf-8")
