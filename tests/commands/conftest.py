"""Commands are given in an empty folder, without a network, and leave the process as it was."""

import os
import signal
import sys

import pytest


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """The folder where the user stands."""
    folder = tmp_path_factory.mktemp("place")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    # no run may leave traces in the home of whoever runs the tests
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)
