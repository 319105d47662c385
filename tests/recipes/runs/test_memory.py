"""Memory that is exhausted is one line with the settings that need it."""

import pytest
import torch
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.runs.memory import memory_is_named

CONFIG = OmegaConf.create({"data": {"batch_size": 64, "unlabeled_ratio": 7}})


def on_host():
    torch.empty(10**15)


def of_python():
    raise MemoryError


def on_device():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore advice")


@pytest.mark.parametrize(
    ("need", "where"), [(on_host, "machine"), (of_python, "machine"), (on_device, "device")]
)
def test_exhausted_memory_is_one_line(need, where):
    with pytest.raises(UserError) as caught, memory_is_named(CONFIG):
        need()
    line = str(caught.value)
    assert f"{where} is exhausted (" in line and "\n" not in line
    assert "data.batch_size=64, data.unlabeled_ratio=7" in line


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="shapes"), memory_is_named(CONFIG):
        raise RuntimeError("shapes do not fit")
