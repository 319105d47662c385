"""What all methods of the family do, in this order: freeze, attach, prove it, load; and leave the
delta behind."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import nn

from methods.peft.audit import audit, snapshot
from methods.peft.freezing import freeze
from methods.peft.store import load_delta, save_delta
from methods.peft.weights import is_mergeable, merge
from recipes.contract import Context, Method
from recipes.networks.network import Network


class Surgeon(Method, ABC):
    """A method that freezes the backbone and trains little beside it; a subclass implements
    `attach`.

    `preserves`: whether the network's output is what it was until something is trained.

    load: delta saved by another run, to start from; null: none.
    """

    preserves: ClassVar[bool] = True
    load: str | None = None

    @abstractmethod
    def attach(self, network: Network) -> None:
        """Add to the frozen network (`network.deltas[self.key]`), or let some of its parameters
        learn again."""

    def surgery(self, network: Network) -> None:
        freeze(network)
        others = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        before = snapshot(network)
        self.attach(network)
        trained = {
            name: p
            for name, p in network.named_parameters()
            if p.requires_grad and id(p) not in others
        }
        audit(network, self.key, trained, before, self.preserves)
        if self.load is not None:
            self.read(Path(self.load), network, trained)

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        """Take over what a run left."""
        load_delta(path, network, trained, option=f"methods.{self.key}.load")

    def save_artifacts(self, folder: Path, context: Context) -> None:
        save_delta(folder / "delta.safetensors", context.network, averaged(context))

    def merge(self, network: Network) -> None:
        if self.key in network.deltas and is_mergeable(network.deltas[self.key]):
            merge(network, self.key)


def averaged(context: Context) -> Network | None:
    """The averaged network, where the run reports its figures."""
    reported = context.reported()
    return reported if reported is not context.network else None
