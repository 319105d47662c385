"""The folder a run writes and the checkpoint it resumes: good ones pass, each bad one is one
line."""

import errno
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from recipes.checkpointing.files import find_checkpoint, load_checkpoint, run_dir_errors
from tests.support.command import REPOSITORY

# a run of version 0.1 that was stopped after 4 of 8 steps
HALF = REPOSITORY / "tests" / "fixtures" / "version_0_1" / "half"


def write_checkpoint(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "state_dict": {"w": torch.ones(2)},
        "global_step": 3,
        "pytorch-lightning_version": "2.6",
        "numbers": {},
    }
    torch.save(state | content, path)
    return path


def test_a_new_or_an_empty_folder_is_fine(tmp_path):
    assert run_dir_errors(str(tmp_path / "a" / "b")) == []
    assert run_dir_errors(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("trace", ["config.yaml", "metrics.json", "checkpoints"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, trace):
    (tmp_path / trace).mkdir()
    (line,) = map(str, run_dir_errors(str(tmp_path)))
    assert "holds a run already" in line
    assert run_dir_errors(str(tmp_path), reading=True) == []


def test_a_run_may_be_gone_on_with_only_from_its_own_checkpoint(tmp_path):
    own = write_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    other = write_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    run = str(tmp_path / "run")
    assert run_dir_errors(run, resume=run) == []
    assert run_dir_errors(run, resume=str(own)) == []
    assert len(run_dir_errors(run, resume=str(other))) == 1


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        (line,) = map(str, run_dir_errors(str(folder)))
        assert line.endswith(f"'{tmp_path / 'file'}' is a file")


def test_no_permission(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "no", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    (line,) = map(str, run_dir_errors(str(tmp_path / "run")))
    assert line == f"run_dir: '{tmp_path}/run' cannot be written: Permission denied in '{tmp_path}'"


@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="needs a file system in which nobody can write"
)
def test_a_file_system_that_takes_no_files():
    (line,) = map(str, run_dir_errors("/proc/run"))
    assert line.startswith("run_dir: '/proc/run' cannot be written: ")


def test_a_checkpoint_is_found_by_its_run_or_its_file(tmp_path):
    run = shutil.copytree(HALF, tmp_path / "run")
    path = run / "checkpoints" / "last.ckpt"
    assert find_checkpoint(str(run)) == find_checkpoint(str(path)) == path
    assert load_checkpoint(str(run))["global_step"] == 4


def bad_checkpoints(folder):
    (folder / "text.ckpt").write_text("not a checkpoint")
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "zeros.ckpt").write_bytes(bytes(2000))
    torch.save({"weights": 1}, folder / "other.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    torch.save({"state_dict": pytest.raises}, folder / "code.ckpt")
    (folder / "run").mkdir()
    return [
        "text.ckpt",
        "empty.ckpt",
        "zeros.ckpt",
        "other.ckpt",
        "list.ckpt",
        "code.ckpt",
        "run",
        "missing.ckpt",
    ]


def test_everything_that_is_no_checkpoint_is_refused_in_a_line(tmp_path):
    for name in bad_checkpoints(tmp_path):
        with pytest.raises(UserError) as caught:
            load_checkpoint(str(tmp_path / name))
        assert str(caught.value).startswith("resume: ") and "\n" not in str(caught.value), name
