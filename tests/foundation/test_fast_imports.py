"""The garbage collector during imports. In processes of their own: this one has imported torch long
ago."""

import gc
import subprocess
import sys

from foundation.fast_imports import gc_paused
from tests.support.command import REPOSITORY

CODE = """
import gc
from foundation.fast_imports import gc_paused

try:
    with gc_paused():
        assert not gc.isenabled()
        {body}
except ValueError:
    pass
print(gc.isenabled(), gc.get_freeze_count())
"""


def ended(body: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(body=body)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_what_was_imported_is_kept_and_the_collector_is_back():
    enabled, kept = ended("kept = [[] for _ in range(1000)]")
    assert enabled == "True" and int(kept) > 1000


def test_after_a_mistake_too():
    assert ended("raise ValueError")[0] == "True"


def test_nothing_happens_once_torch_is_there():
    import torch  # noqa: F401

    before = gc.get_freeze_count()
    with gc_paused():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
