"""A small world for tests of the command line: the repository's root config and settings, with its
own data sets, recipes and methods, and a stand-in for the engine that notes what it was asked to
run."""

import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from pydantic import Field

# before `recipes.runs.run` is stood in for: modules that take their `run` from it must have got the
# true one
import recipes.runs.stages  # noqa: F401
from recipes.config.groups import CONFIGS, families
from recipes.contract.method import Method
from recipes.setup.spec import Result, RunSpec
from recipes.sweeps import child, process

FILES = {
    "data/digits.yaml": "# Small digits\nroot: null\nbatch_size: 64  # labeled samples in a step\n",
    "data/docstrings.yaml": "# Short texts\nroot: null\nbatch_size: 32\n",
    "network/default.yaml": "# The default for the data\nname: small\n",
    "logger/none.yaml": "# No logger beside the files\n{}\n",
    "recipe/supervised.yaml": "# @package _global_\n# Labels only\n{}\n",
    "recipe/fixmatch.yaml": "# @package _global_\n# Weak labels teach strong views\ndefaults:\n"
    "  - override /semi_supervised: fixmatch\nmethods:\n  fixmatch:\n    tau: 0.9\n"
    "trainer:\n  max_steps: 50\n",
    "semi_supervised/fixmatch.yaml": "# @package methods.fixmatch\n# One threshold\n"
    "_target_: {here}.Threshold\ntau: 0.95\nweight: 1.0\n",
    "semi_supervised/mean_teacher.yaml": "# @package methods.mean_teacher\n# An averaged teacher\n"
    "_target_: {here}.Threshold\ntau: 0.5\nweight: 1.0\n",
    "peft/lora.yaml": "# @package methods.lora\n# Low rank\n_target_: {here}.LowRank\nrank: 4\n",
}


class Threshold(Method):
    def __init__(self, tau: Annotated[float, Field(ge=0, le=1)] = 0.95, weight: float = 1.0):
        self.tau, self.weight = tau, weight


class LowRank(Method):
    def __init__(self, rank: Annotated[int, Field(ge=1)] = 4):
        self.rank = rank


def write_configs(root: Path) -> Path:
    """The repository's own groups of settings, and the files above beside them."""
    own = {"optimizer", "scheduler", "trainer", "evaluate", "hydra"}
    for name in own:
        shutil.copytree(CONFIGS / name, root / name)
    shutil.copy(CONFIGS / "config.yaml", root)
    for family in families():
        (root / family).mkdir()
        shutil.copy(CONFIGS / family / "none.yaml", root / family)
    for name, text in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text.replace("{here}", __name__))
    return root


class Engine:
    """Stands in for `recipes.runs.run`."""

    def __init__(self) -> None:
        self.runs: list[tuple[Any, list[str], list[str]]] = []
        self.error: BaseException | None = None
        self.answer: Callable[[Any], dict[str, float]] = lambda config: {
            "val/accuracy": 0.5,
            "test/accuracy": 0.4,
        }

    def run(self, spec: RunSpec, **options: Any) -> Result:
        self.runs.append((spec.config, list(spec.command), list(sys.argv)))
        if self.error is not None:
            raise self.error
        return Result(self.answer(spec.config), spec.monitor)


def here(arguments: list[str], log: Path, lock: int) -> int:
    """A job's process stood in for: in this one, with the same log and exit codes."""
    with log.open("a") as out, redirect_stdout(out), redirect_stderr(out):
        outer = Singleton.get_state()
        GlobalHydra.instance().clear()
        try:
            return child.main(arguments)
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            Singleton.set_state(outer)


def install(engine: Engine, patch: pytest.MonkeyPatch) -> Engine:
    module = ModuleType("recipes.runs.run")
    module.run = engine.run  # type: ignore[attr-defined]
    module.check = lambda spec: spec.monitor or "val/accuracy"  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "recipes.runs.run", module)
    patch.setattr(process, "spawn", here)
    return engine
