import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Heads and proxies are drawn from torch's own generator."""
    torch.manual_seed(0)
