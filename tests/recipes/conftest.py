import sys

import pytest

# files whose tests look at the page of a run
WITH_PAGES = {
    "engine/test_collapse.py",
    "predict/test_remarks.py",
    "runs/test_damaged_runs.py",
    "runs/test_shown_views.py",
    "setup/test_remarks.py",
}


@pytest.fixture(autouse=True, scope="module")
def pages(request):
    """Runs write their page only where tests look at it: it takes as long as forty steps.
    `tests/commands/` runs with pages throughout."""
    folder, name = request.path.parent.name, request.path.name
    if folder == "report" or f"{folder}/{name}" in WITH_PAGES:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recipes.runs.outputs.write_report", lambda record, path: [])
        yield


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
