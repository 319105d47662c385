"""Grid sweeps: every combination of the swept values, each job once.

Hydra's sweeper numbers jobs by their position in the command, ends with the first job's error, and
repeats all jobs when the command is repeated. Here the number and the folder of a job depend on its
overrides only, so that a repeated command runs what is missing, also with more values."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from foundation.errors import first_line
from recipes.config.stage_keys import stage_keys_from_hydra
from recipes.sweeps.record import Job, assign_numbers, jobs_of


class RouxSweeper(Sweeper):
    """Base of the sweepers: runs the jobs that are missing; a job that the launcher loses does not
    end the sweep."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        overrides = self.parser.parse_overrides(list(arguments))
        # the last override of a key wins, as in a single run
        last = {override.get_key_element(): override for override in overrides}
        self.dry = "dry_run" in last and last["dry_run"].value() is True
        return list(last.values())

    def run(self, wanted: Sequence[Job]) -> list[int]:
        """Run those of the jobs that are missing; returns the numbers of all."""
        if self.dry:
            return self.plan(wanted)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.folder / "multirun.yaml")
        numbers = assign_numbers(self.folder, wanted)
        known = jobs_of(self.folder)
        missing = [n for n in dict.fromkeys(numbers) if not known[n].over]
        if missing and not self.launch([known[n] for n in missing], missing):
            # jobs without a recorded end are launched a second time, failed ones are not
            known = jobs_of(self.folder)
            lost = [n for n in missing if known[n].lost]
            if lost:
                self.launch([known[n] for n in lost], lost)
        return numbers

    def plan(self, wanted: Sequence[Job]) -> list[int]:
        """Print the plans of all jobs and remove the empty folders that Hydra creates."""
        numbers = list(range(len(wanted)))
        self.launch(wanted, numbers)
        for folder in (*(self.folder / str(n) for n in numbers), self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return numbers

    def launch(self, jobs: Sequence[Any], numbers: Sequence[int]) -> bool:
        """Launch jobs; False where the launcher lost one, e.g. because its process was killed."""
        overrides = [
            [*job.overrides, f"hydra.sweep.subdir={n}"]
            for job, n in zip(jobs, numbers, strict=True)
        ]
        try:
            results = self.launcher.launch(overrides, initial_job_idx=numbers[0])
            for result in results:
                _ = result.return_value  # raises what the job raised
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            print(f"the launcher lost a job: {reason}", flush=True)
            return False
        return True


class GridSweeper(RouxSweeper):
    """`hydra/sweeper=roux`"""

    def sweep(self, arguments: list[str]) -> Any:
        return self.run(combinations(self.parse(arguments)))


def combinations(overrides: Sequence[Override]) -> list[Job]:
    """All jobs of a command, in the order of its values."""
    choices = [values(override) for override in overrides]
    swept = [override.is_sweep_override() for override in overrides]
    return [Job(list(job), label(job, swept)) for job in itertools.product(*choices)]


def label(job: Sequence[str], swept: Sequence[bool]) -> str:
    """The swept overrides of a job, with keys as the user writes them."""
    own = [stage_keys_from_hydra(text) for text in itertools.compress(job, swept)]
    return " ".join(text.lstrip("+") for text in own)


def values(override: Override) -> list[str]:
    """An override of the command as overrides of single jobs: one per swept value."""
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    if override.is_delete():
        return [str(override.input_line)]
    return [f"{key}={override.get_value_element_as_str()}"]
