"""Files are written whole, to the disk, and leave nothing behind when the disk refuses."""

import errno
import os
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.files import discard, os_reason, remove_leftovers, write_text


def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_text_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """Renamed first, a power cut could leave an empty file under the right name."""
    done = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1]
    )
    write_text(tmp_path / "plan.txt", "a\n")
    assert done == ["sync", "rename", "sync"]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.txt"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_full_disk_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    path = write_text(tmp_path / "plan.txt", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = (os, "fsync") if step == "fsync" else (Path, "replace")
    monkeypatch.setattr(*target, full)
    with pytest.raises(UserError, match=r"plan\.txt: cannot be written \(No space left on device"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.txt"] and path.read_text() == "old"


def test_a_disk_that_turned_read_only_keeps_its_own_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        write_text(tmp_path / "plan.txt", "new")
    discard(tmp_path / "any")


def test_temporary_files_of_killed_writes_are_removed_and_nothing_else(tmp_path):
    names = [".plan.txt.abc_1234", ".metrics.csv.zzzzzzzz", ".stages.json.q1.part"]
    names += [".last.ckpt.part"]
    kept = [".gitignore", "plan.txt", "notes.part", ".plan.txt.swp", ".writing"]
    for name in names + kept:
        (tmp_path / name).write_text("x")
    (tmp_path / ".folder.part").mkdir()
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, ".folder.part"}
    remove_leftovers(tmp_path / "missing")


def test_the_reason_of_the_system_is_found_behind_that_of_a_library():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904
    except RuntimeError as error:
        assert os_reason(error) == "No space left on device"
    assert os_reason(ValueError("odd\nmore")) == "odd"
