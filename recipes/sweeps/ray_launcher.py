"""Runs jobs with Ray, on a cluster or on this machine.

The released plugin (hydra-ray-launcher 1.2.0) asks for ray 1.12.0 and pickle5, which have no builds
for Python 3.11.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field

from foundation.errors import UserError


class RayLauncher(Launcher):
    """Runs jobs with Ray, on a cluster or on this machine, `hydra/launcher=roux_ray`.

    address: address of a running cluster, or `auto`; null: this machine.
    num_cpus: CPU cores per job, at least 0; 1; Ray runs as many jobs at once as fit.
    num_gpus: GPUs per job, at least 0; 0; 0.5 runs two jobs on one GPU.
    init: further arguments of ray.init, e.g. {num_cpus: 4} for this machine; null: none.
    """

    def __init__(
        self,
        address: str | None = None,
        num_cpus: Annotated[float, Field(ge=0)] = 1,
        num_gpus: Annotated[float, Field(ge=0)] = 0,
        init: dict[str, Any] | None = None,
    ):
        self.address = address
        self.needs = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self.init = dict(init or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "hydra/launcher=roux_ray: Ray is not installed; pip install 'roux[launchers]'"
            ) from error
        setup_globals()
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=True, **self.init)
        # no retries by Ray: the sweeper restarts lost jobs
        remote = ray.remote(execute).options(max_retries=0, **self.needs)
        state = Singleton.get_state()
        shared = (self.hydra_context, self.task_function, self.config)
        try:
            jobs = [
                remote.remote(*shared, list(overrides), number, state)
                for number, overrides in enumerate(job_overrides, start=initial_job_idx)
            ]
            return ray.get(jobs)
        finally:
            ray.shutdown()


def execute(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    overrides: list[str],
    number: int,
    state: Any,
) -> JobReturn:
    """Run one job in a Ray worker."""
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = f"{OmegaConf.select(composed, 'hydra.job.name')}_{number}"
        composed.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
