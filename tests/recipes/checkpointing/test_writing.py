"""Checkpoints are written whole or not at all."""

from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from recipes.checkpointing.writing import AtomicFiles


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("size", [1, 100_000])  # within the buffer, and beyond it
def test_a_full_disk_is_named_and_not_what_torch_makes_of_it(size, tmp_path):
    """torch's writer raises `unexpected pos 64 vs 0` while it handles the error of the system."""
    path, part = tmp_path / "last.ckpt", tmp_path / ".last.ckpt.part"
    AtomicFiles().save_checkpoint({"w": torch.zeros(2)}, path)
    before = path.read_bytes()
    part.symlink_to("/dev/full")
    with pytest.raises(UserError) as caught:
        AtomicFiles().save_checkpoint({"w": torch.zeros(size)}, path)
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); the checkpoint before it is "
        "untouched: make room, then resume"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] and path.read_bytes() == before
