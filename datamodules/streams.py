"""From positions to batches: the parts of a source that streams read, and the loaders that deliver
them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.source import Source
from foundation.errors import UserError


class Part:
    """Samples of a source that one stream or one evaluation reads.

    rows: int64 [M], their places in the source. targets: by task, int64 [M]. index: int64 [M], the
    number under which a memory keeps the sample, stable over run, workers, ranks and resume; the
    same for a sample in every stream.
    """

    def __init__(self, source: Source, rows: Tensor, targets: dict[str, Tensor], index: Tensor):
        self.source = source
        self.tasks = tuple(targets)
        # one table, so that a batch costs one gather for all its numbers
        self.table = torch.stack([rows, index, *targets.values()])

    @classmethod
    def whole(cls, source: Source) -> "Part":
        """All of a source, with its own targets."""
        rows = torch.arange(len(source))
        return cls(source, rows, source.targets, rows)

    def __len__(self) -> int:
        return self.table.shape[1]

    @property
    def rows(self) -> Tensor:
        return self.table[0]

    @property
    def index(self) -> Tensor:
        return self.table[1]

    @property
    def targets(self) -> dict[str, Tensor]:
        return dict(zip(self.tasks, self.table[2:], strict=True))

    def fetch(self, positions: Tensor) -> dict[str, Any]:
        """{"data", "targets", "index"} of the samples at `positions` [B]."""
        rows, index, *targets = self.table.index_select(1, positions).unbind()
        data = self.source.fetch(rows)
        return {
            "data": data,
            "targets": dict(zip(self.tasks, targets, strict=True)),
            "index": index,
        }


class PlacedPart(Part):
    """A part whose samples lie on the device: a batch is a gather there, and what crosses over are
    its numbers, in one transfer that nobody waits for."""

    def __init__(self, part: Part, source: Source, device: torch.device):
        self.source = source
        self.tasks = part.tasks
        self.table = part.table
        self.device = device

    def fetch(self, positions: Tensor) -> dict[str, Any]:
        numbers = self.table.index_select(1, positions)
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        rows, index, *targets = numbers.to(self.device, non_blocking=True).unbind()
        data = self.source.fetch_there(numbers[0], rows)
        return {
            "data": data,
            "targets": dict(zip(self.tasks, targets, strict=True)),
            "index": index,
        }


class Places:
    """Which sources lie on the device: each for itself, while they fit into what may be taken
    there.

    allowed: GiB, or `auto`: a quarter of what is free.
    """

    def __init__(self, allowed: float | Literal["auto"], device: torch.device, free: int):
        self.device = device
        self.left = free // 4 if allowed == "auto" else int(min(allowed * 2**30, free))
        self._there: dict[int, Source | None] = {}

    def part(self, part: Part) -> Part:
        """The part with its samples on the device where they fit, else as it is."""
        key = id(part.source)
        if key not in self._there:
            size = part.source.nbytes
            fits = size is not None and size <= self.left
            self.left -= (size or 0) if fits else 0
            self._there[key] = part.source.on(self.device) if fits else None
        source = self._there[key]
        return part if source is None else PlacedPart(part, source, self.device)


@dataclass(frozen=True)
class Failure:
    """A user's mistake found while fetching: a worker process would wrap an exception into a
    traceback."""

    message: str


class StepDataset(Dataset):
    """Training batches: a request of `StepSampler` in, {"position", stream: batch} out."""

    def __init__(self, parts: Mapping[str, Part]):
        self.parts = dict(parts)

    def __getitem__(self, request: Mapping[str, Any]) -> dict[str, Any] | Failure:
        try:
            return {
                name: value if name == "position" else self.parts[name].fetch(value)
                for name, value in request.items()
            }
        except UserError as error:
            return Failure(str(error))


class PartDataset(Dataset):
    """Evaluation batches: positions in, {"data", "targets", "index"} out."""

    def __init__(self, part: Part):
        self.part = part

    def __getitem__(self, positions: Tensor) -> dict[str, Any] | Failure:
        try:
            return self.part.fetch(positions)
        except UserError as error:
            return Failure(str(error))


def as_fetched(batch: Any) -> Any:
    """In place of a collate function: the dataset has made the whole batch."""
    return batch


def moved(batch: Any, device: torch.device) -> Any:
    """A batch of tensors in nested dicts on `device`; whatever else it holds stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    return (
        {name: moved(part, device) for name, part in batch.items()}
        if isinstance(batch, dict)
        else batch
    )


class BatchLoader(DataLoader):
    """A DataLoader over batches that the dataset makes whole; a `Failure` is raised as
    UserError."""

    def __init__(
        self,
        dataset: Dataset,
        sampler: Any,
        workers: int = 0,
        pin: bool = False,
        persistent: bool = False,
    ):
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=as_fetched,
            pin_memory=pin,
            persistent_workers=persistent and workers > 0,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # without workers, half of the stock iterator's time is spent on what only workers need
        direct = not self.num_workers and not self.pin_memory
        for batch in map(self.dataset.__getitem__, self.sampler) if direct else super().__iter__():
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch


class StepLoader(BatchLoader):
    """The loader of all training streams. Stateful as Lightning means it: its state is the run's
    position."""

    def __init__(
        self,
        *args: Any,
        state: Callable[[], dict[str, Any]],
        restore: Callable[[dict[str, Any]], None],
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self._state = state
        self._restore = restore

    def state_dict(self) -> dict[str, Any]:
        return self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restore(state)
