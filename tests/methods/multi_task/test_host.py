"""What is solved in arrays on the CPU is what tensors give on a device."""

import numpy as np
import pytest
import torch

from foundation import devices
from methods.multi_task import host
from methods.multi_task.mgda import min_norm
from methods.multi_task.nash_mtl import bargain
from methods.multi_task.pcgrad import projected_weights
from tests.support.worked_multi_task import random_gram


def projected(gram: torch.Tensor) -> torch.Tensor:
    order = torch.rand(gram.shape, generator=torch.Generator().manual_seed(len(gram))).argsort(1)
    return projected_weights(gram, order)


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("solve", [min_norm, bargain, projected], ids=lambda solve: solve.__name__)
def test_both_ways_agree(solve, tasks, monkeypatch):
    for seed in range(20):
        gram = random_gram(seed, tasks, 2 * tasks)
        with monkeypatch.context() as patched:
            on_host = solve(gram)
            patched.setattr(devices, "readable", lambda tensor: False)
            on_device = solve(gram)
        assert on_host.dtype == on_device.dtype == torch.float64
        torch.testing.assert_close(on_host, on_device, rtol=1e-9, atol=1e-9)


def test_nothing_is_changed_in_place():
    gram = random_gram(0, 4)
    before = gram.clone()
    for solve in (min_norm, bargain, projected):
        solve(gram)
    assert torch.equal(gram, before)


def test_a_system_without_solution_gives_no_numbers():
    ones, right = np.ones((2, 2)), np.array([1.0, 2.0])
    assert np.isnan(host.solve(ones, right)).all()
    np.testing.assert_allclose(host.solve(ones + np.eye(2), right), [0, 1], atol=1e-12)
