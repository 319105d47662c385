"""Base of the PEFT methods: freeze, attach, audit, load; at the end save the delta."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from foundation.awaited import is_awaited
from foundation.errors import UserError, first_line
from foundation.moved import former_names
from methods.peft.audit import REMEDY, audit, snapshot
from methods.peft.freezing import freeze
from methods.peft.sites import existing, find_sites
from methods.peft.store import load_delta, save_delta
from methods.peft.weights import is_mergeable, merge
from recipes.contract import Context, Method
from recipes.networks.network import Network

logger = logging.getLogger(__name__)


class PEFTMethod(Method, ABC):
    """A method that freezes the backbone and trains few parameters; a subclass implements `attach`.

    `preserves`: whether the network's output is unchanged before training.
    `trains_backbone`: whether it must find something to train in or beside the backbone.

    load: delta saved by another run, to start from; null: none.
    """

    preserves: bool = True
    trains_backbone: bool = True
    load: str | None = None
    artifacts = {"delta": "delta.safetensors"}

    @abstractmethod
    def attach(self, network: Network) -> None:
        """Add modules to the frozen network (`network.deltas[self.key]`), or make some of its
        parameters trainable again."""

    def surgery(self, network: Network) -> None:
        freeze(network)
        others = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
        before = snapshot(network)
        with self.refusing(network):
            self.attach(network)
        trained = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and id(parameter) not in others:
                trained[name] = parameter
        if not trained and self.trains_backbone:
            raise UserError(
                f"methods.{self.key}",
                f"finds nothing to train in {type(network.backbone).__name__}",
                f"it has {existing(find_sites(network.backbone))}",
            )
        with self.refusing(network):
            idle = {name for name in trained if self.may_be_idle(name)}
            audit(network, self.key, trained, before, self.preserves, idle)
        if self.load is not None and not is_awaited(self.load):
            self.read(Path(self.load), network, trained)

    def may_be_idle(self, name: str) -> bool:
        """Whether a trained tensor has no effect in some networks, which is no mistake. name: in
        the network."""
        return False

    @contextmanager
    def refusing(self, network: Network) -> Iterator[None]:
        """A network that does not run as changed by this method is one line for the user."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            logger.debug("'%s' does not fit the network", self.key, exc_info=True)
            raise UserError(
                f"methods.{self.key}",
                f"{type(network.backbone).__name__} does not run with it ({first_line(error)})",
                REMEDY,
            ) from error

    def read(self, path: Path, network: Network, trained: dict[str, nn.Parameter]) -> None:
        """Load a delta saved by another run."""
        load_delta(path, network, trained, option=f"methods.{self.key}.load")

    def save_artifacts(self, folder: Path, context: Context) -> None:
        save_delta(folder / "delta.safetensors", context.network, averaged(context))

    def merge(self, network: Network) -> None:
        if self.key in network.deltas and is_mergeable(network.deltas[self.key]):
            merge(network, self.key)


def averaged(context: Context) -> Network | None:
    """The averaged network, if it is the reported one."""
    teacher = context.teacher
    return (
        teacher.network if teacher is not None and context.reported() is teacher.network else None
    )


if not TYPE_CHECKING:  # with a module `__getattr__` mypy would accept any name
    __getattr__ = former_names(__name__)
