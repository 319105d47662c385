"""Loaders over the parts of a data set: rank, device and workers of a run."""

import warnings
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule

from datamodules.evaluation_parts import in_order
from datamodules.fingerprint import Fingerprint, all_parts, fingerprint_of
from datamodules.samplers import ShareSampler
from datamodules.source import Source, Splits
from datamodules.splits import count_without_label
from datamodules.streams import BatchLoader, Part, PartDataset, PlacedPart, Places, moved
from datamodules.unlabeled import shared_with_test


class PartLoaders(LightningDataModule):
    """Base of `StreamDataModule`: evaluation loaders, and what all loaders have in common.

    parts: by name, filled by `setup`. The other settings: see `StreamDataModule`.
    """

    def __init__(
        self, eval_batch_size: int, num_workers: int, device_memory: float | Literal["auto"]
    ):
        super().__init__()
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.device_memory = device_memory
        self.parts: dict[str, Part] = {}
        self._splits: Splits | None = None
        self._further: dict[str, Splits] = {}
        self._fingerprint: Fingerprint | None = None
        self._shared: tuple[int, str] | None = None
        self._place: tuple[int, int, int] | None = None
        self._places: Places | None = None

    # -- parts -------------------------------------------------------------------------------------
    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each part after setup. Indices of both streams are in
        [0, sizes["unlabeled"])."""
        return {name: len(part) for name, part in self.parts.items()}

    def has_missing(self, task: str) -> bool:
        """Whether some labeled samples have no label (-1) for this task."""
        return bool((self.parts["labeled"].targets[task] < 0).any())

    @property
    def without_label(self) -> int:
        """Training samples that have no label at all, after setup."""
        return count_without_label(self.parts["unlabeled"].targets) if self.parts else 0

    def shared_with_test(self) -> tuple[int, str]:
        """How many training samples are in the test part as well, and the first; after setup.
        Computed once."""
        if self._shared is None and self.parts:
            self._shared = shared_with_test(self.splits)
        return self._shared or (0, "")

    # -- to tell one set from another --------------------------------------------------------------
    @property
    def splits(self) -> Splits:
        """The set before any cut, after `prepare_data`."""
        if self._splits is None:
            raise RuntimeError("the data are not read yet: call prepare_data() or setup()")
        return self._splits

    def fingerprint(self) -> Fingerprint:
        """What tells these data from others; computed once."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.splits, self._further)
        return self._fingerprint

    # -- rank and device ---------------------------------------------------------------------------
    def place(self, rank: int, world: int, total: int) -> None:
        """Set rank, world size and the run's number of micro-batches, for use without a trainer."""
        self._place = (rank, world, total)

    def _where(self) -> tuple[int, int, int]:
        """(rank, world, micro-batches of the run)."""
        if self._place is not None:
            return self._place
        trainer = self.trainer
        if trainer is None:
            return 0, 1, 0
        total = max(trainer.max_steps, 0) * trainer.accumulate_grad_batches
        return trainer.global_rank, trainer.world_size, total

    def _accumulated(self) -> int:
        """Micro-batches of an optimizer step."""
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def _device(self) -> torch.device:
        """The trainer's device, the CPU without a trainer."""
        if self.trainer is None:
            return torch.device("cpu")
        return self.trainer.strategy.root_device

    def _placed(self, part: Part) -> Part:
        """The part as loaders read it: with its samples on the GPU if they fit there."""
        device = self._device()
        if device.type != "cuda" or self.num_workers:
            return part
        if self._places is None:
            self._places = Places(self.device_memory, device, torch.cuda.mem_get_info(device)[0])
        return self._places.part(part)

    def _options(self, part: Part) -> dict[str, Any]:
        """Loader options. Also silences Lightning's advice to use workers for sets in memory."""
        if not part.source.workers:
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        on_host = not isinstance(part, PlacedPart)
        return {"workers": self.num_workers, "pin": on_host and self._device().type == "cuda"}

    # -- evaluation --------------------------------------------------------------------------------
    def evaluated(self, stage: str) -> list[str]:
        """The parts that are evaluated in a stage, `val` or `test`, in order."""
        return in_order(list(self.parts), stage, list(self._further))

    def sources(self) -> dict[str, Source]:
        """Everything that was read, before any cut: the sources of the fingerprint."""
        return all_parts(self.splits, self._further)

    def evaluation_loader(self, name: str) -> BatchLoader:
        """One pass over a part in evaluation batches, each rank over its share."""
        part = self._placed(self.parts[name])
        rank, world, _ = self._where()
        sampler = ShareSampler(len(part), self.eval_batch_size, rank, world)
        # validation runs many times, testing once: only validation keeps its workers
        persistent = name in self.evaluated("val")
        return BatchLoader(PartDataset(part), sampler, persistent=persistent, **self._options(part))

    def val_dataloader(self) -> list[BatchLoader]:
        # without validation: Lightning asks whether that is meant
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return [self.evaluation_loader(name) for name in self.evaluated("val")]

    def test_dataloader(self) -> list[BatchLoader]:
        return [self.evaluation_loader(name) for name in self.evaluated("test")]

    def share_loader(self, name: str, batch_size: int | None = None) -> BatchLoader:
        """One pass over a part in its own order, each rank over its share, which has at least one
        sample. batch_size: None: that of evaluation."""
        part = self._placed(self.parts[name])
        rank, world, _ = self._where()
        sampler = ShareSampler(len(part), batch_size or self.eval_batch_size, rank, world)
        return BatchLoader(PartDataset(part), sampler, **self._options(part))

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Lightning's own version searches every kind of container; ours are dicts of tensors
        return batch if device.type == "cpu" else moved(batch, device)
