"""Heavy imports without Python's garbage collector.

torch, Lightning and what they bring are a million objects that stay for good. The collector, which
is called by the number of new objects, walks through all of them again and again and finds nothing:
1.5 s of a start.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """For the first imports of a process: the collector is off, and does not look at what is there
    afterwards before the process ends. (Then it does: extension modules, triton's for one, complain
    of what was not taken down.)

    Does nothing once torch is there: then most of the imports have been made, and what could be
    kept by mistake is rather a network or a data set of a run before this one."""
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
