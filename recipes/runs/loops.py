"""Loops of stages while they run: which round a stage is of, and whether its loop has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

Figures = dict[str, dict[str, Any]]
STOP = "stop"  # among a program's metrics: 1 where it ended its loop
LEFT_OUT = {"left_out": 1.0}  # in place of the metrics of a stage whose loop had ended


@dataclass(frozen=True)
class Place:
    """loop: its name. number: of the round, from 1. rounds: of all rounds, the stages by their name
    in the loop. until: the stage that may end the loop; empty: none. base: the stage's own name."""

    loop: str
    number: int
    rounds: tuple[Mapping[str, str], ...]
    until: str
    base: str

    @property
    def first(self) -> bool:
        """Whether it is the first stage of its loop."""
        return self.number == 1 and next(iter(self.rounds[0])) == self.base

    @property
    def twin(self) -> str:
        """The same stage in the first round."""
        return self.rounds[0][self.base]

    def ended(self, done: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the loop has been ended, in an earlier round or by an earlier stage of this."""
        deciders = [names.get(self.until, "") for names in self.rounds]
        return any(done.get(name, {}).get(STOP) for name in deciders)

    @property
    def text(self) -> str:
        stages = ", ".join(self.rounds[0])
        if not self.until:
            return f"loop {self.loop}: {len(self.rounds)} rounds of {stages}"
        most = f"at most {len(self.rounds)} rounds of {stages}"
        return f"loop {self.loop}: {most}; ends when {self.until} says stop"


def places_of(config: DictConfig) -> dict[str, Place]:
    """Stage -> its place, of the stages that are in a loop."""
    places = {}
    loops: Any = OmegaConf.to_container(config.get("loops") or OmegaConf.create({}))
    for loop, entry in loops.items():
        rounds = tuple(entry["rounds"])
        for number, names in enumerate(rounds, start=1):
            for base, name in names.items():
                places[name] = Place(loop, number, rounds, entry["until"], base)
    return places


def last_metrics(done: Figures) -> dict[str, Any]:
    """Those of the last stage that was not left out."""
    return next((done[name] for name in reversed(done) if was_done(name, done)), {})


def was_done(name: str, done: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a stage has been done, and not left out."""
    return name in done and done[name] != LEFT_OUT
