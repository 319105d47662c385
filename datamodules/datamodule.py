"""The data of a run: streams for training, parts for evaluation, and the views that methods ask
for."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.facts import Facts
from datamodules.samplers import MakeOrder, Order, ShareSampler, ShuffledPasses, StepSampler
from datamodules.source import DataInfo, Loader, Splits
from datamodules.splits import SplitSettings, class_counts, split_training
from datamodules.streams import (
    BatchLoader,
    Part,
    PartDataset,
    PlacedPart,
    Places,
    StepDataset,
    StepLoader,
    moved,
)
from foundation.errors import UserError, nearest
from foundation.randomness import Draw

DIGITS = "0123456789"
REFERENCE_BATCHES, REFERENCE_SAMPLES = (
    4,
    256,
)  # training batches on which moments are estimated, and their size


class StreamDataModule(LightningDataModule):
    """Streams of raw samples; see `splits` for the cuts and `samplers` for the order.

    source: the loader of the set (`datamodules.sources`).
    root: folder that holds the set; null looks in the cache and downloads there.
    batch_size: labeled samples of a micro-batch, over all ranks.
    unlabeled_ratio: unlabeled samples for each labeled one (μ of FixMatch).
    eval_batch_size: samples of an evaluation batch on each rank.
    labels_per_class: labels kept in each class, null for all; with an imbalance_factor their mean,
        in the profile of the training data and at least one a class.
    imbalance_factor: n_max / n_min ≥ 1 of a long-tailed cut, class 0 the head; null leaves the set
        as it is.
    imbalance: `exp` or `step` profile.
    imbalance_subset: samples `seeded` by split_seed, or `legacy`, the very ones that LDAM-DRW's
        code takes.
    few_below, many_above: classes with fewer, or more, labeled samples are evaluated apart as few-
        and many-shot.
    label_noise: share of the labels that are replaced by another class.
    val_fraction: share of the (long-tailed) training data held out for validation, unless the set
        brings a validation part; 0 for none.
    split_seed: seeds all cuts. seed: seeds the order of samples.
    num_workers: processes that fetch; 0 is right for sets in memory.
    device_memory: GiB of a GPU's memory that sets in memory may take, so that batches are gathered
        there; auto for a quarter of what is free, 0 for none. Others are pinned. With num_workers
        all stay on the host.
    views: view objects by name, without a trailing digit; null takes a view away.
    text: null for images; for text a function of the set's parts that numbers their words, gives
        the codec.
    """

    def __init__(
        self,
        source: Loader,
        root: str | None = None,
        batch_size: Annotated[int, Field(ge=1)] = 64,
        unlabeled_ratio: Annotated[int, Field(ge=1)] = 7,
        eval_batch_size: Annotated[int, Field(ge=1)] = 256,
        labels_per_class: Annotated[int, Field(ge=1)] | None = None,
        imbalance_factor: Annotated[float, Field(ge=1)] | None = None,
        imbalance: Literal["exp", "step"] = "exp",
        imbalance_subset: Literal["seeded", "legacy"] = "seeded",
        few_below: Annotated[int, Field(ge=1)] = 20,
        many_above: Annotated[int, Field(ge=1)] = 100,
        label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0,
        val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        num_workers: Annotated[int, Field(ge=0)] = 0,
        device_memory: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto",
        views: dict[str, Any] | None = None,
        text: Callable[[Splits], Any] | None = None,
    ):
        super().__init__()
        self.source = source
        self.root = root
        self.batch_size = batch_size
        self.unlabeled_ratio = unlabeled_ratio
        self.eval_batch_size = eval_batch_size
        self.split_settings = SplitSettings(
            labels_per_class,
            imbalance_factor,
            imbalance,
            imbalance_subset,
            label_noise,
            val_fraction,
            split_seed,
        )
        if few_below > many_above + 1:
            raise UserError(
                f"data.few_below={few_below}: expected at most data.many_above={many_above} and "
                "one more"
            )
        self.shots = (few_below, many_above)
        self.seed = seed
        self.num_workers = num_workers
        self.device_memory = device_memory
        self.views: dict[str, Any] = {
            name: view for name, view in (views or {}).items() if view is not None
        }
        self.text = text
        self.codec: Any = None
        self.info: DataInfo = source.info()
        self.kind = self.info.kind
        self.streams = {"labeled"}
        self.orders: dict[str, MakeOrder] = {}
        self.tasks: dict[str, int] = {}
        self.classes: dict[str, list[str]] = {}
        self.parts: dict[str, Part] = {}
        self.true_targets: dict[str, Tensor] = {}
        self._splits: Splits | None = None
        self._reference: list[dict[str, dict[str, Any]]] = []
        self._position = 0
        self._place: tuple[int, int, int] | None = None
        self._places: Places | None = None

    # -- what is asked for, before anything is read ------------------------------------------------
    def request(
        self, streams: Iterable[str], orders: Mapping[str, MakeOrder] | None = None
    ) -> None:
        """Ask for streams; the requests of all methods add up. orders: how the samples of a stream
        come, by stream; shuffled passes where nobody asks."""
        known = {"labeled", "unlabeled"}
        for stream in streams:
            if stream not in known:
                raise UserError(f"data: there is no stream '{stream}'; {nearest(stream, known)}")
            self.streams.add(stream)
        self.orders |= orders or {}

    def view_names(self) -> set[str]:
        """Names of the views this data has, without trailing digits."""
        return set(self.views)

    def place(self, rank: int, world: int, total: int) -> None:
        """Without a trainer to ask: where this process stands, and how many micro-batches the run
        has."""
        self._place = (rank, world, total)

    # -- reading and cutting -----------------------------------------------------------------------
    def prepare_data(self) -> None:
        # one process a machine comes here before the others, so only one downloads
        self._splits = self._splits or self.source.load(self.root)

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        self._splits = splits = self._splits or self.source.load(self.root)
        train = splits.train
        self._fit_text(splits)
        self.classes = dict(train.classes)
        self.tasks = {task: len(names) for task, names in self.classes.items()}
        cut = split_training(
            train.targets, self.classes, self.split_settings, own_val=splits.val is not None
        )
        pool_targets = {task: values[cut.pool] for task, values in train.targets.items()}
        self.true_targets = cut.truth
        self.parts = {
            "labeled": Part(train, cut.pool[cut.labeled], cut.targets, cut.labeled),
            # true labels travel along for diagnostics only
            "unlabeled": Part(train, cut.pool, pool_targets, torch.arange(len(cut.pool))),
            "test": Part.whole(splits.test),
        }
        if splits.val is not None:
            self.parts["val"] = Part.whole(splits.val)
        elif len(cut.val):
            held = {task: values[cut.val] for task, values in train.targets.items()}
            self.parts["val"] = Part(train, cut.val, held, torch.arange(len(cut.val)))
        for stream, size in self.batch_sizes().items():
            self._order(
                stream, size, self._where()[2]
            )  # what cannot be is said before a run has begun

    def _fit_text(self, splits: Splits) -> None:
        """Number the words of all parts, and let views take their statistics from the training
        texts."""
        if self.text is not None:
            self.codec = self.text(splits)
        for view in self.views.values():
            if hasattr(view, "fit"):
                view.fit(splits.train)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each part after setup. Indices of both streams lie in [0,
        sizes["unlabeled"])."""
        return {name: len(part) for name, part in self.parts.items()}

    def class_counts(self, task: str = "label") -> Tensor:
        """int64 [C]: labeled training samples a class, by the labels that training sees."""
        return class_counts(self.parts["labeled"].targets[task], self.tasks[task])

    def has_missing(self, task: str) -> bool:
        """Whether some labeled samples carry no label (-1) for this task."""
        return bool((self.parts["labeled"].targets[task] < 0).any())

    def facts(self) -> Facts:
        """What of the data a network needs in order to be built, after setup."""
        return Facts(
            classes=self.classes,
            counts={task: self.class_counts(task).tolist() for task in self.tasks},
            missing=[task for task in self.tasks if self.has_missing(task)],
            sizes=self.sizes,
            tokenizer=self.codec.tokenizer if self.codec is not None else None,
        )

    @property
    def vocab_size(self) -> int | None:
        """Tokens of the tokenizer; before setup the most it may have, None for images and unread
        tokenizers."""
        if self.codec is not None:
            return self.codec.tokenizer.size
        return (
            self.text.vocab_size if self.text is not None and self.text.pretrained is None else None
        )

    # -- views -------------------------------------------------------------------------------------
    def make_view(
        self, stream: Any, name: str, draw_for: Callable[[str], Draw] | None = None
    ) -> Any:
        """The view `name` of a batch of raw samples, on its device.

        stream: raw data, or the {"data", "targets", "index"} that a loader delivers. name: `raw`,
        `weak`, `strong` …; a trailing digit asks for another independent draw of the same
        transform. draw_for: random numbers by purpose; the view's full name is put before each
        purpose, the caller puts the stream's. `raw` needs none.
        """
        data = stream["data"] if isinstance(stream, Mapping) and "targets" in stream else stream
        view = self.views.get(name) or self.views.get(name.rstrip(DIGITS))
        if view is None:
            raise UserError(
                f"data.views: this data has no view '{name}'; {nearest(name, self.views)}"
            )

        def drawn(purpose: str) -> Draw:
            if draw_for is None:
                raise ValueError(f"view '{name}' draws random numbers, and none were given")
            return draw_for(f"{name}/{purpose}")

        return view(data, drawn)

    def decode(self, view: Mapping[str, Tensor]) -> list[str]:
        """A text view {"ids", "mask"} [B, L] as strings, for people."""
        if self.codec is None:
            raise ValueError("only texts can be decoded, after setup")
        return self.codec.decode(view["ids"], view["mask"])

    # -- loaders -----------------------------------------------------------------------------------
    def _where(self) -> tuple[int, int, int]:
        """(rank, world, micro-batches of the run)."""
        if self._place is not None:
            return self._place
        trainer = self.trainer
        if trainer is None:
            return 0, 1, 0
        return (
            trainer.global_rank,
            trainer.world_size,
            max(trainer.max_steps, 0) * trainer.accumulate_grad_batches,
        )

    def _options(self, part: Part) -> dict[str, Any]:
        """Loader options; also silences Lightning's advice to use workers where a fetch is one
        gather."""
        if not part.source.workers:
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        device = self.trainer.strategy.root_device.type if self.trainer is not None else "cpu"
        return {
            "workers": self.num_workers,
            "pin": device == "cuda" and not isinstance(part, PlacedPart),
        }

    def _placed(self, part: Part) -> Part:
        """The part as loaders read it: on a GPU with its samples there, where they fit."""
        device = (
            self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        )
        if device.type != "cuda" or self.num_workers:
            return part
        if self._places is None:
            self._places = Places(self.device_memory, device, torch.cuda.mem_get_info(device)[0])
        return self._places.part(part)

    def batch_sizes(self) -> dict[str, int]:
        """Samples of each stream in one micro-batch, over all ranks."""
        sizes = {"labeled": self.batch_size, "unlabeled": self.batch_size * self.unlabeled_ratio}
        return {stream: sizes[stream] for stream in sorted(self.streams)}

    def train_dataloader(self) -> StepLoader:
        rank, world, total = self._where()
        if self.batch_size % world:
            raise UserError(
                f"data.batch_size={self.batch_size} is the batch over all ranks, "
                f"it must divide by their number, {world}"
            )
        if total < 1:
            raise UserError(
                "trainer.max_steps must be set: streams are endless, a run has a number of steps"
            )
        sizes = self.batch_sizes()
        orders = {name: self._order(name, size, total) for name, size in sizes.items()}
        sampler = StepSampler(orders, sizes, total, rank, world, start=lambda: self.position)
        parts = {stream: self._placed(self.parts[stream]) for stream in sizes}
        dataset = StepDataset(parts)
        return StepLoader(
            dataset,
            sampler,
            persistent=True,
            state=self.state_dict,
            restore=self.load_state_dict,
            **self._options(parts["labeled"]),
        )

    def _order(self, stream: str, batch_size: int, total: int) -> Order:
        part = self.parts[stream]
        if stream in self.orders:
            return self.orders[stream](part.targets, batch_size, total, self.seed, stream)
        return ShuffledPasses(len(part), self.seed, stream)

    def _evaluation_loader(self, name: str) -> BatchLoader | list[Any]:
        part = self.parts.get(name)
        if part is None:
            return []
        part = self._placed(part)
        rank, world, _ = self._where()
        sampler = ShareSampler(len(part), self.eval_batch_size, rank, world)
        # validation comes again and again, testing once
        return BatchLoader(
            PartDataset(part), sampler, persistent=name == "val", **self._options(part)
        )

    def pass_over(self, name: str) -> BatchLoader:
        """One pass over a part in its own order, all of it on every rank, in batches as evaluation
        has them."""
        part = self._placed(self.parts[name])
        return BatchLoader(
            PartDataset(part), ShareSampler(len(part), self.eval_batch_size), **self._options(part)
        )

    def reference_batches(self) -> list[dict[str, dict[str, Any]]]:
        """The run's first training batches as raw data, {stream: batch}, for what is estimated on
        training samples.

        At most `REFERENCE_SAMPLES` samples each, in the shares that the streams have; the same on
        every rank. They are read once and kept: their number does not grow with the data."""
        if not self._reference:
            sizes = self.batch_sizes()
            total = self._where()[2]
            most = min(1.0, REFERENCE_SAMPLES / sum(sizes.values()))
            orders = {stream: self._order(stream, size, total) for stream, size in sizes.items()}
            for start in range(REFERENCE_BATCHES):
                batch = {}
                for stream, size in sizes.items():
                    rows = orders[stream].take(
                        start * size, start * size + max(2, int(most * size))
                    )
                    batch[stream] = self.parts[stream].fetch(rows)
                self._reference.append(batch)
        return self._reference

    def val_dataloader(self) -> BatchLoader | list[Any]:
        return self._evaluation_loader("val")

    def test_dataloader(self) -> BatchLoader | list[Any]:
        return self._evaluation_loader("test")

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        # Lightning's own looks for every kind of container there is; loaders deliver on the CPU or
        # on the device
        return batch if device.type == "cpu" else moved(batch, device)

    # -- where the run stands ----------------------------------------------------------------------
    @property
    def position(self) -> int:
        """Micro-batches done: as the trainer counted, else as restored."""
        done = 0  # workers fetch ahead, so what the sampler handed out says nothing
        if self.trainer is not None:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return done or self._position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = int(state["position"])

    def teardown(self, stage: str | None = None) -> None:
        # the next stage of a recipe starts its streams anew
        self._position = 0
