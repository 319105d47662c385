"""The exponential moving average of the network: one service, used by every method that asks for an equal one."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from recipes.method import TeacherRequest
from recipes.networks.network import Network

M = TypeVar("M", bound=nn.Module)


def ema_decay(request: TeacherRequest, update: int) -> float:
    """The decay at update t = 1, 2, …: `decay`, or min(1 - 1/(t+1), decay) with warm-up (.5, .667, .75, …)."""
    return min(1.0 - 1.0 / (update + 1), request.decay) if request.warmup else request.decay


def copy_sharing_frozen(network: M) -> M:
    """A deep copy without gradients, whose frozen parameters are the original's own tensors: a frozen backbone is
    held once, and only what is trained is averaged."""
    shared = {id(p): p for p in network.parameters() if not p.requires_grad}
    twin = copy.deepcopy(network, memo=dict(shared))
    for parameter in twin.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    return twin


class Teacher(nn.Module):
    """θ' ← aθ' + (1-a)θ after every optimizer step, in the parameters' own precision (float32 under autocast).

    Buffers: `copy` takes the student's, so that averaged weights meet fresh batch-norm statistics; `ema` averages
    the floating ones; `own` never touches them: the teacher then runs in training mode and keeps the statistics of
    its own forwards (the form of Mean Teacher's authors). Integer buffers are copied, never averaged.
    """

    def __init__(self, student: Network, request: TeacherRequest):
        super().__init__()
        self.request = request
        self.network = copy_sharing_frozen(student)
        self.train(student.training)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(mode and self.request.buffers == "own")

    @torch.no_grad()
    def update(self, student: nn.Module, update: int) -> None:
        """The average after optimizer step number `update` (from 1)."""
        decay = ema_decay(self.request, update)
        pairs = [
            (mine, yours)
            for mine, yours in zip(self.network.parameters(), student.parameters(), strict=True)
            if mine is not yours
        ]
        self._average(pairs, decay)
        if self.request.buffers == "own":
            return
        buffers = list(zip(self.network.buffers(), student.buffers(), strict=True))
        floating = [pair for pair in buffers if pair[0].is_floating_point()]
        if self.request.buffers == "ema":
            self._average(floating, decay)
        elif floating:
            torch._foreach_copy_([m for m, _ in floating], [y for _, y in floating])
        for mine, yours in buffers:
            if not mine.is_floating_point():
                mine.copy_(yours)

    @staticmethod
    def _average(pairs: Sequence[tuple[Tensor, Tensor]], decay: float) -> None:
        if pairs:
            torch._foreach_lerp_([mine for mine, _ in pairs], [yours for _, yours in pairs], 1.0 - decay)
