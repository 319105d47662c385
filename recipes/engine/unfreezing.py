"""Weights that begin to train during a run."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from torch import nn

from recipes.networks.freezing import first_trained, norms_of
from recipes.networks.network import Network
from recipes.services.teacher import Teacher


class Unfreezing:
    """Holds the weights of `network.waiting` until their step.

    On one device they have `requires_grad=False` until then, so that nothing below the first
    trained layer needs a backward. DDP has to know all trained weights when it is set up: on
    several devices they have gradients, which are dropped before anything reads them. In both cases
    an optimizer leaves them as they are, without decay and without moments.

    Their BatchNorm layers keep running statistics until then, in the teacher as well.

    twins: further networks of the same structure that train; the same weights of theirs wait.
    """

    def __init__(
        self,
        network: Network,
        teacher: Teacher | None,
        total_steps: int,
        twins: Sequence[Network] = (),
    ):
        self.network = network
        self.teacher = teacher
        self.trained = [network, *twins]
        self.first = first_trained(network, total_steps)
        self.held: dict[str, list[nn.Parameter]] = {}
        self.drops = False

    def begin(self, done: int, several: bool) -> None:
        """Hold what has not begun to train after `done` steps. several: devices."""
        self.drops = several
        waiting = [name for name, step in self.first.items() if step > done]
        if waiting:
            self._hold(waiting)

    def advance(self, done: int) -> None:
        """Called after every optimizer step: let go of what begins to train now."""
        if self.held:
            self._let_go([name for name in self.held if self.first[name] <= done])

    def wrapped(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure of an optimizer step, after which held weights have no gradient."""
        if not (self.drops and self.held):
            return closure

        def without_held() -> Any:
            loss = closure()
            for parameter in chain.from_iterable(self.held.values()):
                parameter.grad = None
            return loss

        return without_held

    def _hold(self, names: Iterable[str]) -> None:
        self.held = {}
        for name in names:
            self.held[name] = [network.get_parameter(name) for network in self.trained]
        for network in self._networks():
            network.keep_eval_only(self._resting(network))
        for parameter in () if self.drops else chain.from_iterable(self.held.values()):
            parameter.requires_grad_(False)
        self._note_resting()

    def _let_go(self, names: Iterable[str]) -> None:
        resting = [self._resting(network) for network in self._networks()]
        for name in names:
            for parameter in self.held.pop(name):
                parameter.requires_grad_(True)
        for network, layers in zip(self._networks(), resting, strict=True):
            still = set(map(id, self._resting(network)))
            network.release([layer for layer in layers if id(layer) not in still])
        self._note_resting()

    def _networks(self) -> list[Network]:
        return [*self.trained, *([self.teacher.network] if self.teacher else [])]

    def _resting(self, network: Network) -> list[nn.Module]:
        """BatchNorm layers that are held; none where all layers rest for the whole run."""
        return [] if network.freezing.batchnorm else norms_of(network, self.held)

    def _note_resting(self) -> None:
        """Evaluation of an averaged network keeps the statistics of these layers too."""
        if self.teacher and self.teacher.moments:
            self.teacher.moments.resting = set(self._resting(self.teacher.network))
