"""The EMA network (teacher): one instance, shared by all methods that request the same one."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from recipes.networks.network import Network
from recipes.networks.requests import TeacherRequest
from recipes.services.moments import Moments
from recipes.step.ramps import decay_within

M = TypeVar("M", bound=nn.Module)

Lists = tuple[list[Tensor], list[Tensor]]


def final_decay(request: TeacherRequest, total_steps: int) -> float:
    """a, the decay after the warm-up."""
    return decay_within(request.decay, request.horizon, total_steps)


def ema_decay(request: TeacherRequest, update: int, total_steps: int) -> float:
    """The decay at update t = 1, 2, …: a, or with warm-up min(1 - 1/(t+1), a), which starts at .5,
    .667, .75, …"""
    decay = final_decay(request, total_steps)
    return min(decay, 1.0 - 1.0 / (update + 1)) if request.warmup else decay


def copy_sharing_frozen(network: M) -> M:
    """A deep copy without gradients that shares the original's frozen parameters: a frozen backbone
    is in memory once, and only trained parameters are averaged."""
    shared = {id(p): p for p in network.parameters() if not p.requires_grad}
    duplicate = copy.deepcopy(network, memo=dict(shared))
    for parameter in duplicate.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    return duplicate


class TensorPairs:
    """The tensors of a teacher and of its student, in lists of equal order: averaged `parameters`,
    `floating` point buffers, and `counting` (integer) ones. Cached by the teacher: iterating over
    two networks in every step costs more than averaging."""

    def __init__(self, teacher: nn.Module, student: nn.Module):
        weights = zip(teacher.parameters(), student.parameters(), strict=True)
        buffers = list(zip(teacher.buffers(), student.buffers(), strict=True))
        # frozen parameters are the student's own
        self.parameters = _unzipped([pair for pair in weights if pair[0] is not pair[1]])
        self.floating = _unzipped([pair for pair in buffers if pair[0].is_floating_point()])
        self.counting = _unzipped([pair for pair in buffers if not pair[0].is_floating_point()])


def _unzipped(pairs: list[tuple[Tensor, Tensor]]) -> Lists:
    return [mine for mine, _ in pairs], [yours for _, yours in pairs]


class Teacher(nn.Module):
    """θ' ← aθ' + (1-a)θ after every optimizer step, in the precision of the parameters (float32
    under autocast).

    Buffers: `copy` copies the student's, so that averaged weights have current batch-norm
    statistics; `ema` averages floating-point buffers; `own` does not change them: the teacher then
    runs in training mode and has the statistics of its own forwards (as in the code of Mean
    Teacher's authors). Integer buffers are copied, never averaged.

    Training uses these buffers. Evaluation uses `moments` instead of BatchNorm's, if requested.
    """

    def __init__(self, student: Network, request: TeacherRequest, total_steps: int = 1):
        super().__init__()
        self.request = request
        self.total_steps = total_steps
        self._pairs: TensorPairs | None = None
        self.network = copy_sharing_frozen(student)
        # before modes change: layers that training does not update are in evaluation mode
        self.moments = Moments(self.network) if request.moments == "estimated" else None
        self.train(student.training)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(mode and self.request.buffers == "own")

    @torch.no_grad()
    def update(self, student: nn.Module, update: int) -> None:
        """Average after optimizer step number `update`, from 1."""
        decay = ema_decay(self.request, update, self.total_steps)
        if self._pairs is None:
            self._pairs = TensorPairs(self.network, student)
        pairs = self._pairs
        self._average(pairs.parameters, decay)
        if self.request.buffers == "own":
            return
        if self.request.buffers == "ema":
            self._average(pairs.floating, decay)
        elif pairs.floating[0]:
            torch._foreach_copy_(*pairs.floating)
        if pairs.counting[0]:
            torch._foreach_copy_(*pairs.counting)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Teacher":
        # moving to a device replaces buffers
        self._pairs = None
        return super()._apply(fn, recurse)

    @staticmethod
    def _average(pair: Lists, decay: float) -> None:
        mine, yours = pair
        if mine:
            torch._foreach_lerp_(mine, yours, 1.0 - decay)
