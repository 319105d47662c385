"""The division of the labeled samples by two networks: whose label is kept by which, and the
streams that follow from it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.samplers import Order, ShuffledPasses
from methods.semi_supervised.loss_mixture import clean_probability, normalised

FIRST, SECOND = "student", "second"
OTHER = {FIRST: SECOND, SECOND: FIRST}
# the streams of each network: samples whose label it keeps, and the others
KEPT = {FIRST: "labeled", SECOND: "kept_by_second"}
REST = {FIRST: "rest", SECOND: "rest_of_second"}


class Division(nn.Module):
    """The probability that a label is right, by both networks; part of checkpoints and equal on all
    ranks. Samples without a label are never kept.

    rows: labeled samples. samples: of the whole training part, by whose numbers they are looked up.
    """

    index: Tensor
    count: Tensor

    def __init__(self, rows: int, samples: int, history: int, threshold: float):
        super().__init__()
        self.threshold = threshold
        self.register_buffer("index", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for network in (FIRST, SECOND):
            self.register_buffer(f"losses_{network}", torch.zeros(history, rows))
            self.register_buffer(f"clean_{network}", torch.ones(samples))
        self._positions: dict[str, Tensor] = {}

    def put(self, network: str, index: Tensor, losses: Tensor) -> None:
        """The losses [M] of a network on the samples `index`; negative ones have no label."""
        history = self.get_buffer(f"losses_{network}")
        labeled = losses >= 0
        scaled = torch.where(labeled, losses, losses.new_tensor(-1.0))
        scaled[labeled] = normalised(losses[labeled])
        earlier = history.roll(1, dims=0)
        earlier[0] = scaled.to(history)
        history.copy_(earlier)
        # of the first divisions there are fewer
        number = int(self.count) // 2 + 1
        mean = earlier[:number].mean(0).cpu()
        clean = torch.zeros(len(losses))
        clean[labeled] = clean_probability(mean[labeled])
        place = index.to(self.index.device)
        self.index.copy_(place)
        self.get_buffer(f"clean_{network}")[place] = clean.to(history)
        self.count += 1
        self._positions = {}

    def of(self, network: str, index: Tensor) -> Tensor:
        """[N], the probabilities by a network for samples `index`."""
        return self.get_buffer(f"clean_{network}")[index]

    def positions(self, network: str, kept: bool) -> Tensor:
        """Positions in the labeled part of the samples that a network divides off. None of them are
        left where they would be empty: then all."""
        key = f"{network}/{kept}"
        if key not in self._positions:
            found = self.of(network, self.index) > self.threshold
            chosen = (found == kept).nonzero().squeeze(1).cpu()
            self._positions[key] = chosen
        return self._positions[key]

    def has_rest(self, network: str) -> bool:
        return len(self.positions(network, kept=False)) > 0

    def share(self, network: str) -> float:
        """Of the samples whose label a network keeps."""
        return len(self.positions(network, kept=True)) / len(self.index)

    @property
    def version(self) -> int:
        """Divisions so far, of both networks together."""
        if "version" not in self._positions:
            self._positions["version"] = self.count.cpu()
        return int(self._positions["version"])

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._positions = {}


class Divided:
    """The samples of one stream: shuffled passes over those that the newest division gives it, over
    all before the first one and where there are none."""

    def __init__(self, division: Callable[[], Division | None], size: int, seed: int, stream: str):
        self.division = division
        self.size = size
        self.seed = seed
        self.stream = stream
        self._made: tuple[int, Tensor | None, Order] | None = None

    def take(self, start: int, stop: int) -> Tensor:
        division = self.division()
        version = 0 if division is None else division.version
        if self._made is None or self._made[0] != version:
            self._made = (version, *self.passes(division, version))
        _, positions, order = self._made
        taken = order.take(start, stop)
        return taken if positions is None else positions[taken]

    def passes(self, division: Division | None, version: int) -> tuple[Tensor | None, Order]:
        if division is None or not version:
            return None, ShuffledPasses(self.size, self.seed, self.stream)
        kept = self.stream in KEPT.values()
        names = KEPT if kept else REST
        (network,) = [name for name, stream in names.items() if stream == self.stream]
        positions = division.positions(OTHER[network], kept)
        if not len(positions):
            return None, ShuffledPasses(self.size, self.seed, f"{self.stream}/{version}")
        return positions, ShuffledPasses(len(positions), self.seed, f"{self.stream}/{version}")
