"""A logger whose folder cannot be made, or whose file is damaged, is one line."""

import pytest

from foundation.errors import UserError
from recipes.loggers.tensorboard import TensorBoard
from recipes.loggers.weights_and_biases import WeightsAndBiases


def test_the_folder_of_wandb(tmp_path):
    (tmp_path / "file").write_text("")
    logger = WeightsAndBiases(mode="offline").open(tmp_path / "file" / "run")
    with pytest.raises(UserError) as caught:
        logger.experiment  # noqa: B018
    assert str(caught.value) == (
        f"logger=wandb: its folder in '{tmp_path}/file/run' cannot be made (Not a directory); "
        "expected a writable folder"
    )


def test_the_id_of_wandb(tmp_path):
    (tmp_path / "wandb_id").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match=r"wandb_id' cannot be read .*; expected the id of a run"):
        WeightsAndBiases(mode="offline").open(tmp_path)


def test_the_folder_of_tensorboard(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    logger = TensorBoard().open(tmp_path)
    with pytest.raises(UserError, match=r"logger=tensorboard: its folder .* cannot be made "):
        logger.start({"seed": 0}, "plan")
