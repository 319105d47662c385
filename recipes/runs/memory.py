"""Memory that is exhausted, on the host or on the device: one line with what would need less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig

from foundation.errors import UserError, first_line

# the allocator of the CPU has no exception of its own
ON_HOST = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def memory_is_named(config: DictConfig) -> Iterator[None]:
    """config: of the run inside."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        device = isinstance(error, torch.OutOfMemoryError)
        where = "the memory of the device" if device else "the memory of this machine"
        problem = f"{where} is exhausted ({first_line(error)[:160]})"
        settings = [
            f"{key}={config.data[key]}"
            for key in ("batch_size", "unlabeled_ratio", "eval_batch_size")
            if config.data.get(key) is not None
        ]
        data = ", ".join(f"data.{setting}" for setting in settings)
        remedy = f"lower one of {data}, or raise trainer.accumulate_grad_batches with it"
        raise UserError("run", problem, remedy) from error


def is_exhausted(error: BaseException) -> bool:
    exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return exhausted or ON_HOST in str(error)
