"""The search for an unfinished run passes over what it may not read."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipes.runs.run_folder import newest_unfinished


@pytest.mark.parametrize("function", ["read_text", "is_file"])
def test_a_config_without_permission_is_passed_over(function, tmp_path, monkeypatch):
    """read_text: the file may not be read; is_file: the folder may not be entered. Root may do
    both, so the refusal is made up."""
    older, newer = tmp_path / "a", tmp_path / "b"
    for folder in (older, newer):
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0\n")
    config = OmegaConf.create({"run_dir": str(tmp_path / "new"), "seed": 0})
    assert newest_unfinished(config) == newer

    real = getattr(Path, function)

    def refuse(path, *arguments, **options):
        if path.parent == newer:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, function, refuse)
    assert newest_unfinished(config) == older
