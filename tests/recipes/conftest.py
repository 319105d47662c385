import sys

import pytest


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """A folder of configs to choose from."""
    from tests.support.command_line import write_configs

    return write_configs(tmp_path_factory.mktemp("configs"))


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """The stand-in for the engine, in an empty folder."""
    from tests.support.command_line import Engine, install

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return install(Engine(), monkeypatch)
