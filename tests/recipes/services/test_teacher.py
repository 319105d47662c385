import copy

import pytest
import torch
from torch import nn

from recipes.contract import TeacherRequest
from recipes.services.teacher import Teacher, copy_sharing_frozen, ema_decay


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def drift(net: nn.Module, seed: int) -> None:
    """Change weights and statistics as a training step would."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=source))
    net(3 + torch.randn(8, 4, generator=source))


def test_decay():
    warm = TeacherRequest(0.9, warmup=True)
    found = [ema_decay(warm, t, total_steps=10) for t in (1, 2, 3, 9, 10, 99)]
    assert found == pytest.approx([0.5, 2 / 3, 0.75, 0.9, 0.9, 0.9])
    assert [ema_decay(TeacherRequest(0.9), t, 10) for t in (1, 50)] == [0.9, 0.9]


def test_a_horizon_is_a_share_of_the_run_and_decay_its_bound():
    """a = min(decay, 1 - 1/(h T)): .05 of 200, 1000, 20000 and 10^6 steps are 10, 50, 1000 and
    50000."""
    request = TeacherRequest(0.999, horizon=0.05)
    found = [ema_decay(request, 1, steps) for steps in (200, 1000, 20_000, 1_000_000)]
    assert found == pytest.approx([0.9, 0.98, 0.999, 0.999])
    # a shorter horizon than two steps would be no average
    assert ema_decay(request, 1, 10) == 0.5
    warm = TeacherRequest(0.999, warmup=True, horizon=0.05)
    assert [ema_decay(warm, t, 200) for t in (1, 8, 9, 50)] == pytest.approx([0.5, 8 / 9, 0.9, 0.9])


@pytest.mark.parametrize(
    "request_", [TeacherRequest(0.7), TeacherRequest(0.95, warmup=True, buffers="ema")]
)
def test_the_average_against_a_loop(request_):
    student = network()
    teacher = Teacher(student, request_)
    floating = [*student.parameters()]
    if request_.buffers == "ema":
        floating += [b for b in student.buffers() if b.is_floating_point()]
    average = [value.detach().double().clone() for value in floating]
    for t in range(1, 6):
        drift(student, t)
        teacher.update(student, t)
        a = ema_decay(request_, t, 5)
        average = [
            a * mine + (1 - a) * yours.detach().double()
            for mine, yours in zip(average, floating, strict=True)
        ]
    ours = [*teacher.network.parameters()]
    if request_.buffers == "ema":
        ours += [b for b in teacher.network.buffers() if b.is_floating_point()]
    for mine, expected in zip(ours, average, strict=True):
        torch.testing.assert_close(mine.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["copy", "ema", "own"])
def test_buffers(mode):
    student = network()
    teacher = Teacher(student, TeacherRequest(0.75, buffers=mode))
    start = teacher.network[1].running_mean.clone()
    drift(student, 1)
    teacher.update(student, 1)
    yours = student[1].running_mean
    expected = {"copy": yours, "ema": 0.75 * start + 0.25 * yours, "own": start}[mode]
    torch.testing.assert_close(teacher.network[1].running_mean, expected)
    # the integer count is copied, never averaged
    assert int(teacher.network[1].num_batches_tracked) == (0 if mode == "own" else 1)
    assert teacher.network[1].num_batches_tracked.dtype == torch.int64


def test_only_its_own_statistics_let_a_teacher_train():
    for mode, trains in (("copy", False), ("ema", False), ("own", True)):
        teacher = Teacher(network(), TeacherRequest(0.9, buffers=mode))
        assert teacher.network[1].training is trains
        teacher.eval()
        assert not teacher.network.training
        teacher.train()
        assert teacher.network[1].training is trains


def test_frozen_parameters_are_held_once_and_trained_ones_copied():
    student = network()
    student[0].requires_grad_(False)
    twin = copy_sharing_frozen(student)
    assert twin[0].weight is student[0].weight and twin[0].bias is student[0].bias
    assert twin[2].weight is not student[2].weight
    assert torch.equal(twin[2].weight, student[2].weight)
    assert not any(p.requires_grad for p in twin.parameters())
    assert student[2].weight.requires_grad, "the student trains on"
    assert twin[1].running_mean is not student[1].running_mean


def test_a_frozen_part_is_not_averaged_and_the_rest_is():
    student = network()
    student[0].requires_grad_(False)
    teacher = Teacher(student, TeacherRequest(0.5))
    frozen, start = copy.deepcopy(student[0].weight), student[2].weight.detach().clone()
    drift(student, 1)
    teacher.update(student, 1)
    assert torch.equal(teacher.network[0].weight, frozen)
    torch.testing.assert_close(
        teacher.network[2].weight.detach(), (start + student[2].weight.detach()) / 2
    )


def test_the_state_brings_back_the_average():
    student = network()
    teacher = Teacher(student, TeacherRequest(0.5))
    drift(student, 1)
    teacher.update(student, 1)
    other = Teacher(network(), TeacherRequest(0.5))
    other.load_state_dict(teacher.state_dict())
    for a, b in zip(teacher.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_average_follows_a_move():
    """A move to another device or precision replaces buffers; averages go to the new ones."""
    student = nn.BatchNorm1d(3)
    teacher = Teacher(student, TeacherRequest(0.5))
    teacher.update(student, 1)
    student.double(), teacher.double()
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.running_mean.fill_(7.0)
        student.num_batches_tracked.fill_(9)
    teacher.update(student, 2)
    assert teacher.network.weight.tolist() == [2.0, 2.0, 2.0]
    assert teacher.network.running_mean.tolist() == [7.0, 7.0, 7.0]
    assert teacher.network.num_batches_tracked.item() == 9
