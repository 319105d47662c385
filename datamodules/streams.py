"""From positions to batches: the parts of a source that streams read, and their loaders."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.source import Source
from datamodules.views.image.own_views import OwnViews
from datamodules.workers import PatientStart, whole_batches
from foundation.errors import UserError


class Part:
    """Samples of a source that one stream or one evaluation reads.

    rows: int64 [M], positions in the source.
    targets: int64 [M] by task.
    index: int64 [M], the sample's stable number, used as its key in sample memories. It is the same
        in every stream, worker, rank and resumed run.
    extra: int64 [M] by name, further fields of a batch, as the cameras that took the pictures.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        targets: dict[str, Tensor],
        index: Tensor,
        extra: Mapping[str, Tensor] | None = None,
    ):
        self.source = source
        self.tasks = tuple(targets)
        self.extra = tuple(extra or {})
        # one table, so that a batch costs one gather for rows, index and targets together
        self.table = torch.stack([rows, index, *targets.values(), *(extra or {}).values()])

    @classmethod
    def whole(cls, source: Source) -> "Part":
        """All of a source, with its own targets."""
        return cls.of_rows(source, torch.arange(len(source)))

    @classmethod
    def of_rows(
        cls, source: Source, rows: Tensor, extra: Mapping[str, Tensor] | None = None
    ) -> "Part":
        """These samples of a source, with its own targets; a sample's number is its row. extra: of
        all samples of the source."""
        targets = {task: values[rows] for task, values in source.targets.items()}
        own = {name: values[rows] for name, values in (extra or {}).items()}
        return cls(source, rows, targets, rows, own)

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
        return dict(zip(self.tasks, self.table[2:], strict=False))

    def fetch(self, positions: Tensor) -> dict[str, Any]:
        """{"data", "targets", "index"} and the extra fields of the samples at `positions` [B]."""
        numbers = self.table.index_select(1, positions)
        return self.batch(self.source.fetch(numbers[0]), numbers)

    def batch(self, data: Any, numbers: Tensor) -> dict[str, Any]:
        """numbers: columns of the table."""
        _, index, *values = numbers.unbind()
        targets = dict(zip(self.tasks, values, strict=False))
        extra = zip(self.extra, values[len(self.tasks) :], strict=True)
        return {"data": data, "targets": targets, "index": index, **dict(extra)}


@dataclass(frozen=True)
class StreamRequest:
    """A stream of a method's own, beside `labeled` and `unlabeled`.

    part: whose samples it has: `labeled`, `unlabeled`, or the name of a further set of the run
        (`data.sources`).
    per_labeled: samples for each labeled one, at least 1.
    """

    part: str
    per_labeled: int = 1


class PlacedPart(Part):
    """A part whose samples are stored on the device: a batch is a gather there. Only row numbers,
    index and targets are copied, in one non-blocking transfer."""

    def __init__(self, part: Part, source: Source, device: torch.device):
        self.source = source
        self.tasks = part.tasks
        self.extra = part.extra
        self.table = part.table
        self.device = device

    def fetch(self, positions: Tensor) -> dict[str, Any]:
        numbers = self.table.index_select(1, positions)
        if self.device.type == "cuda":
            numbers = numbers.pin_memory()
        there = numbers.to(self.device, non_blocking=True)
        return self.batch(self.source.fetch_there(numbers[0], there[0]), there)


class Places:
    """Decides which sources are stored on the device: each one that fits into the rest of the
    allowed memory.

    allowed: GiB, or `auto` for a quarter of the free memory.
    """

    def __init__(self, allowed: float | Literal["auto"], device: torch.device, free: int):
        self.device = device
        if allowed == "auto":
            self.left = free // 4
        else:
            self.left = int(min(allowed * 2**30, free))
        self._there: dict[int, Source | None] = {}

    def part(self, part: Part) -> Part:
        """The part with its samples on the device if they fit, else unchanged."""
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
    """A `UserError` raised while fetching, passed on as a value: a worker process would wrap the
    exception in a traceback."""

    message: str


class StepDataset(Dataset):
    """Training batches: a request of `StepSampler` in, {"position", stream: batch} out.

    own: views that are made here; None: none.
    """

    def __init__(self, parts: Mapping[str, Part], own: OwnViews | None = None):
        self.parts = dict(parts)
        self.own = own

    def __getitem__(self, request: Mapping[str, Any]) -> dict[str, Any] | Failure:
        try:
            batch = {
                name: value
                if name == "position"
                else self.parts[name].fetch(torch.from_numpy(value))
                for name, value in request.items()
            }
            if self.own is not None:
                self.own.add(batch)
            return batch
        except UserError as error:
            return Failure(str(error))


class PartDataset(Dataset):
    """Evaluation batches: positions in, {"data", "targets", "index"} out."""

    def __init__(self, part: Part):
        self.part = part

    def __getitem__(self, request: np.ndarray) -> dict[str, Any] | Failure:
        positions = torch.from_numpy(request)
        if not len(positions):  # of a few samples a rank may have none; no source is asked for it
            return {"data": None, "targets": {}, "index": positions}
        try:
            return self.part.fetch(positions)
        except UserError as error:
            return Failure(str(error))


def as_fetched(batch: Any) -> Any:
    """The collate function: the dataset has already made the whole batch."""
    return batch


def moved(batch: Any, device: torch.device) -> Any:
    """A batch of tensors in nested dicts on `device`; values of other types are kept."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=device.type == "cuda")
    if isinstance(batch, dict):
        return {name: moved(part, device) for name, part in batch.items()}
    return batch


class BatchLoader(DataLoader):
    """A DataLoader whose dataset makes whole batches; a `Failure` is raised as UserError."""

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
        batches: Iterator[Any]
        if self.num_workers and not isinstance(self.worker_init_fn, PatientStart):
            self.worker_init_fn = PatientStart(self.worker_init_fn)
        if self.num_workers or self.pin_memory:
            batches = whole_batches(super().__iter__())
        else:
            # without workers, half of the stock iterator's time goes into what only workers need
            batches = map(self.dataset.__getitem__, self.sampler)
        for batch in batches:
            if isinstance(batch, Failure):
                # Worker processes end here. Those that an exception keeps alive are collected with
                # their queues, in any order: each may then be waited for in vain for five seconds.
                del batches
                self._iterator = None
                raise UserError(batch.message)
            yield batch


class StepLoader(BatchLoader):
    """The loader of all training streams, stateful in Lightning's sense: its state is the run's
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

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # in each stretch all orders are known; a run without live orders has one
        for _ in self.sampler.stretches():  # type: ignore[attr-defined]
            yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        return self._state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restore(state)
