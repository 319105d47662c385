"""A stage without training: `program: {_target_: …}` in a recipe of stages.

    stages:
      supernet: [peft=glora, methods.glora.mode=supernet]
      search:
        program: {_target_: methods.peft.glora_search.Search, run: '{supernet}', limit: 0.5}
      fixed: [peft=glora, "methods.glora.forms='{search.forms}'"]

A program reads what earlier stages left and writes files that later stages name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Outcome:
    """What a program ends with.

    metrics: numbers for `stages.json`.
    stop: whether the loop that names this program in `until` ends here.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    stop: bool = False


class Program(ABC):
    """Base of all programs. Subclasses take their settings as annotated constructor arguments with
    defaults; one whose value is `{NAME}` or `{NAME.ARTIFACT}`, or a list of such values, gets paths
    of what earlier stages left.

    artifacts: the files that `run` writes, artifact -> name in the stage's folder. One called
        `weights` is where the next stage begins, as with the last weights of a run.
    may_stop: whether `run` may end a loop.
    resumes: whether an interrupted `run` continues from what it left in the folder; else it begins
        again in an empty one.
    """

    artifacts: ClassVar[Mapping[str, str]] = {}
    may_stop: ClassVar[bool] = False
    resumes: ClassVar[bool] = False

    @abstractmethod
    def run(self, folder: Path, seed: int) -> Outcome:
        """Write the artifacts into the folder. The result is a function of the settings, the seed
        and what earlier stages left: a program that was killed runs again. Called on the first
        rank alone, without a process group's help: it must not call other ranks."""
