"""Options of the whole suite, and which tests share a worker."""

import atexit
import gc
import os
from functools import cache
from pathlib import Path

import pytest
from lightning_fabric.utilities import registry

from foundation import attempts
from tests.support.twins import SWITCH

# files of which a method's tests share runs: they go to one worker, method by method
BY_METHOD = ("test_steps.py", "test_resume.py", "test_tasks_and_precision.py", "test_waiting.py")
# files whose tests share nothing
SINGLY = ("test_groups.py", "test_pairs.py", "test_recipes.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shard", metavar="I/N", help="the I-th of N equal parts of the tests")
    parser.addoption(
        "--doubled", action="store_true", help="groups of methods with a twin of every method"
    )
    parser.addoption(
        "--write-numbers",
        action="store_true",
        help="keep what the trials of docs/reliability.md measure in docs/results; with -n 0",
    )


def pytest_configure(config: pytest.Config) -> None:
    attempts.STRICT = True
    # every trainer looks for callbacks of all installed packages, which do not change meanwhile
    registry.entry_points = cache(registry.entry_points)
    if config.getoption("--doubled"):
        os.environ[SWITCH] = "1"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Two million objects, of modules and of ten thousand tests, stay to the end of a process: the
    garbage collector does not walk them again and again, which took a sixth of the suite."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    atexit.register(gc.unfreeze)


def shard(text: str) -> tuple[int, int]:
    """(i, n) of `i/n`, i from 1."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise pytest.UsageError(f"--shard={text}: expected I/N with 1 ≤ I ≤ N, e.g. 2/8")
    return int(part), int(parts)


def worker_group(item: pytest.Item) -> str | None:
    """The tests that share what a process remembers; None for a test that goes to any worker."""
    path = Path(item.path)
    if path.parent.name != "conformance":
        return str(path)
    if path.name in SINGLY:
        return None
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if path.name in BY_METHOD and "key" in parameters:
        return f"method {parameters['key']}"
    return str(path)


def check_groups(items: list[pytest.Item]) -> None:
    """Groups are part of the names that pytest-xdist distributes. Where they are not, tests that
    share runs are scattered and each process makes the runs again: twice the time."""
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        if marker is not None and not item.nodeid.endswith(f"@{marker.args[0]}"):
            raise pytest.UsageError("pytest-xdist does not see groups: pip install 'pytest<9.2'")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    for item in items:
        group = worker_group(item)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
    # markers are there before other plugins look, and a shard is cut from what they have left
    result = yield
    if getattr(config.option, "loadgroup", False) and items:
        check_groups(items)
    if config.getoption("--shard"):
        part, parts = shard(config.getoption("--shard"))
        left = [item for i, item in enumerate(items) if i % parts != part - 1]
        items[:] = items[part - 1 :: parts]
        config.hook.pytest_deselected(items=left)
    return result
