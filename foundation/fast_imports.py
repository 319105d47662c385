"""Large imports without Python's garbage collector.

torch, Lightning and their dependencies create a million objects that are never freed. The
collector, which runs after a number of new objects, scans them repeatedly and frees nothing: 1.5 s
of a start.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """For the first imports of a process: pauses the collector, and afterwards exempts the existing
    objects from it until the process ends. (Then they are collected: extension modules, e.g.
    triton's, print an error about objects that were not freed.)

    Does nothing once torch is imported: most imports are done then, and the exempted objects could
    be a network or a data set of an earlier run."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)
