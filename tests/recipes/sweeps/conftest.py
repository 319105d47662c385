"""Sweeps over a stand-in for the engine, each job in this process."""

import sys

import pytest

from tests.recipes.command_line import Engine, install, write_configs


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    return write_configs(tmp_path_factory.mktemp("configs"))


@pytest.fixture
def engine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return install(Engine(), monkeypatch)
