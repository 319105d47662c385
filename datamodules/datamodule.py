"""The data of a run: streams for training, parts for evaluation, and views."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from datamodules.clock import Clock
from datamodules.cut_parts import CutParts
from datamodules.further_sets import further_sets, look_at
from datamodules.samplers import MakeOrder, Order, ShuffledPasses, StepSampler
from datamodules.source import DataInfo, Loader, TextPreparation
from datamodules.splits import SplitSettings
from datamodules.streams import Part, StepDataset, StepLoader, StreamRequest
from datamodules.unlabeled import count_unlabeled
from datamodules.views.image.own_views import own_views
from datamodules.views.named import named_view, usable_views, view_called
from foundation.errors import UserError, nearest
from foundation.randomness import Draw
from foundation.types import (
    BatchSize,
    Count,
    Processes,
    Ratio,
    Seed,
    Share,
    ShareBelowOne,
    Weight,
)

# training batches on which moments are estimated, and their largest size
REFERENCE_BATCHES = 4
REFERENCE_SAMPLES = 256


class StreamDataModule(CutParts):
    """Streams of raw samples; see `splits` for the cuts and `samplers` for the order.

    source: loader of the data set, a class of `datamodules.sources`.
    root: folder that holds the set; null: the cache, filled by a download.
    batch_size: labeled samples of a micro-batch, over all ranks, at least 1.
    unlabeled_ratio: unlabeled samples for each labeled one, at least 1; 7 (μ of FixMatch).
    eval_batch_size: samples of an evaluation batch on each rank, at least 1.
    labels_per_class: labels kept in each class, at least 1; null: all. With an imbalance_factor
        their mean, in the profile of the training data and at least one a class.
    imbalance_factor: n_max / n_min of a long-tailed cut, at least 1; null: the set as it is. Class
        0 is the largest.
    imbalance: profile of the class counts: `exp` or `step`.
    imbalance_subset: samples kept: `seeded` by split_seed, or `legacy`, those of LDAM-DRW's code.
    few_below: classes with fewer labeled samples are reported as few-shot, at least 1.
    many_above: classes with more labeled samples are reported as many-shot, at least 1; the rest as
        medium-shot.
    label_noise: share of the labels replaced by another class, 0 to 1.
    val_fraction: share of the training data held out for validation, in [0, 1); 0: none. Of the
        long-tailed cut, unless the set brings a validation part.
    split_seed: seed of all cuts.
    seed: seed of the order of samples.
    num_workers: processes that fetch, at least 0; 0 is right for sets in memory.
    device_memory: GiB of a GPU for sets in memory, at least 0; `auto`: a quarter of what is free;
        0: none. Batches are then gathered there. Other sets are pinned. With num_workers all stay
        on the host.
    views: views by name, without a trailing digit; null takes a view away.
    text: for texts: the tokenizer's settings; null: images. A function of the set's parts that
        numbers their words and gives the codec.
    unlabeled: folder of pictures or file of texts without labels, or a list of them; null: none.
        Pictures at any depth, whatever their folders are called; a csv, tsv, jsonl or parquet
        (column of the texts as in the set) or a txt with a text a line. They are training samples,
        for methods that use unlabeled data.
    labels: labels kept in all, in equal numbers of each class, at least one each; null: all.
    labeled: txt, json or npy file that lists the samples that keep their labels; null: none. By
        position in the training part or by name; for published splits.
    sources: further sets by name, evaluated as `NAME_test/accuracy`. A folder or file is read as
        the set itself is; a mapping has the `source`, a loader, and its `root`. Their classes are
        those of the set itself. `data.unlabeled=[NAME]` trains on their samples without labels.
    input_size: side of the square that the views make of a stored picture, in pixels, at least 1;
        null: that of the stored one.
    """

    def __init__(
        self,
        source: Loader,
        root: str | None = None,
        batch_size: BatchSize = 64,
        unlabeled_ratio: Ratio = 7,
        eval_batch_size: BatchSize = 256,
        labels_per_class: Count | None = None,
        imbalance_factor: Annotated[float, Field(ge=1)] | None = None,
        imbalance: Literal["exp", "step"] = "exp",
        imbalance_subset: Literal["seeded", "legacy"] = "seeded",
        few_below: Count = 20,
        many_above: Count = 100,
        label_noise: Share = 0.0,
        val_fraction: ShareBelowOne = 0.1,
        split_seed: Seed = 0,
        seed: Seed = 0,
        num_workers: Processes = 0,
        device_memory: Literal["auto"] | Weight = "auto",
        views: dict[str, Any] | None = None,
        text: TextPreparation | None = None,
        unlabeled: str | list[str] | None = None,
        labels: Count | None = None,
        labeled: str | None = None,
        sources: dict[str, Any] | None = None,
        input_size: Count | None = None,
    ):
        super().__init__(eval_batch_size, num_workers, device_memory)
        self.source = source
        self.root = root
        self.further = further_sets(sources or {}, source, root)
        self.unlabeled = [unlabeled] if isinstance(unlabeled, str) else list(unlabeled or [])
        self.batch_size = batch_size
        self.unlabeled_ratio = unlabeled_ratio
        self.split_settings = SplitSettings(
            labels_per_class,
            labels,
            imbalance_factor,
            imbalance,
            imbalance_subset,
            label_noise,
            val_fraction,
            split_seed,
        )
        given = {"labels_per_class": labels_per_class, "labels": labels, "labeled": labeled}
        chosen = [f"data.{name}={value}" for name, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise UserError(" and ".join(chosen), "both say which labels are kept", "leave one out")
        self.labeled = labeled
        if few_below > many_above + 1:
            raise UserError(
                f"data.few_below={few_below}: expected at most data.many_above + 1 = "
                f"{many_above + 1}"
            )
        self.shots = (few_below, many_above)
        self.seed = seed
        self.views = usable_views(views or {})
        self.text = text
        self.codec: Any = None
        self.input_size = input_size
        self.info: DataInfo = source.info().seen_at(input_size)
        self.kind = self.info.kind
        self.streams = {"labeled"}
        self.own_streams: dict[str, StreamRequest] = {}
        self.orders: dict[str, MakeOrder] = {}
        self.live: dict[str, list[Clock]] = {}
        self.asked_views: dict[str, Sequence[str]] = {}
        self.tasks: dict[str, int] = {}
        self.classes: dict[str, list[str]] = {}
        self._reference: list[dict[str, dict[str, Any]]] = []
        self._position = 0

    # -- requests of methods, before anything is read ----------------------------------------------
    def request(
        self,
        streams: Iterable[str],
        orders: Mapping[str, MakeOrder] | None = None,
        own: Mapping[str, StreamRequest] | None = None,
        views: Mapping[str, Sequence[str]] | None = None,
        live: Mapping[str, list[Clock]] | None = None,
    ) -> None:
        """Request streams; the requests of all methods are merged.

        orders: the order of samples by stream; shuffled passes for a stream without one.
        own: streams beside `labeled` and `unlabeled`, by name.
        views: full names of the views that steps need, by stream.
        live: when orders change, by stream.
        """
        self.own_streams |= own or {}
        known = {"labeled", "unlabeled", *self.own_streams}
        for stream in streams:
            if stream not in known:
                raise UserError(f"data: there is no stream '{stream}'; {nearest(stream, known)}")
            self.streams.add(stream)
        self.orders |= orders or {}
        self.asked_views |= views or {}
        self.live |= live or {}

    def view_names(self) -> set[str]:
        """Names of the views this data has, without trailing digits."""
        return set(self.views)

    def look(self) -> None:
        """Learn what data of one's own have, as far as it is cheap: for the plan. Raises UserError
        if they are not there."""
        preview = getattr(self.source, "preview", None)
        if preview is not None:
            self.info = preview(self.root).seen_at(self.input_size)
        for more in self.further.values():
            look_at(more, self.info)
        places = [place for place in self.unlabeled if place not in self.further]
        further = count_unlabeled(places, self.info)
        self.info = replace(self.info, unlabeled=self.info.unlabeled + further)

    def setup(self, stage: str | None = None) -> None:
        if self.parts:
            return
        self.cut()
        for stream, size in self.batch_sizes().items():
            # made here once only to raise errors before the run starts
            self._order(stream, size, self._where()[2])

    # -- views -------------------------------------------------------------------------------------
    def make_view(
        self, stream: Any, name: str, draw_for: Callable[[str], Draw] | None = None
    ) -> Any:
        """The view `name` of a batch of raw samples, on the batch's device.

        stream: raw data, or the {"data", "targets", "index"} that a loader delivers.
        name: `raw`, `weak`, `strong` …; a trailing digit is another independent draw of the same
            transform.
        draw_for: random numbers by purpose. The view's full name is prefixed to each purpose, the
            caller prefixes the stream's. `raw` needs none.
        """
        data = stream["data"] if isinstance(stream, Mapping) and "targets" in stream else stream
        return named_view(self.views, data, name, draw_for)

    def is_on_host(self, name: str) -> bool:
        """Whether a view is computed on the host, picture by picture, wherever the batch is."""
        return getattr(view_called(self.views, name), "on_host", False)

    def view_states(self) -> dict[str, nn.Module]:
        """What views have learned, by the name of the view."""
        states = {name: getattr(view, "state", None) for name, view in self.views.items()}
        return {name: state for name, state in states.items() if isinstance(state, nn.Module)}

    def decode(self, view: Mapping[str, Tensor]) -> list[str]:
        """A text view {"ids", "mask"} [B, L] as strings, for people."""
        if self.codec is None:
            raise ValueError("only texts can be decoded, after setup")
        return self.codec.decode(view["ids"], view["mask"])

    # -- training ----------------------------------------------------------------------------------
    def batch_sizes(self) -> dict[str, int]:
        """Samples of each stream in one micro-batch, over all ranks."""
        sizes = {"labeled": self.batch_size, "unlabeled": self.batch_size * self.unlabeled_ratio}
        for stream, request in self.own_streams.items():
            sizes[stream] = self.batch_size * request.per_labeled
        return {stream: sizes[stream] for stream in sorted(self.streams)}

    def part_of(self, stream: str) -> Part:
        """The samples of a stream, after setup."""
        own = self.own_streams.get(stream)
        return self.parts[stream if own is None else own.part]

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
        sampler = StepSampler(
            orders, sizes, total, rank, world, lambda: self.position, self.horizon
        )
        own = own_views(self.views, self.asked_views, self.seed, rank, world)
        # transforms of one's own run on the host
        place = self._placed if own is None else lambda part: part
        parts = {stream: place(self.part_of(stream)) for stream in sizes}
        dataset = StepDataset(parts, own)
        return StepLoader(
            dataset,
            sampler,
            persistent=True,
            state=self.state_dict,
            restore=self.load_state_dict,
            **self._options(parts["labeled"]),
        )

    def pass_steps(self, stream: str) -> float:
        """Optimizer steps in which a stream is read once."""
        return len(self.part_of(stream)) / self.batch_sizes()[stream] / self._accumulated()

    def horizon(self, position: int) -> int:
        """The micro-batch, later than a position, before which an order may change."""
        total = self._where()[2]
        each = self._accumulated()
        clocks = [clock for clocks in self.live.values() for clock in clocks]
        times = [c.next_after(position // each, total // each, self.pass_steps) for c in clocks]
        return min((time * each for time in times if time is not None), default=total)

    def _order(self, stream: str, batch_size: int, total: int) -> Order:
        part = self.part_of(stream)
        if stream in self.orders:
            return self.orders[stream](part.targets, batch_size, total, self.seed, stream)
        return ShuffledPasses(len(part), self.seed, stream)

    def reference_batches(self) -> list[dict[str, dict[str, Any]]]:
        """The run's first training batches as raw data, {stream: batch}, for estimates on training
        samples.

        Each has at most `REFERENCE_SAMPLES` samples, in the ratio of the streams; the same on every
        rank. They are read once and cached: their number does not grow with the data.
        """
        if self._reference:
            return self._reference
        sizes = self.batch_sizes()
        total = self._where()[2]
        share = min(1.0, REFERENCE_SAMPLES / sum(sizes.values()))
        # a live order would give other samples to a run that resumes after it has changed
        orders = {
            stream: ShuffledPasses(len(self.part_of(stream)), self.seed, stream)
            if stream in self.live
            else self._order(stream, size, total)
            for stream, size in sizes.items()
        }
        for number in range(REFERENCE_BATCHES):
            batch = {}
            for stream, size in sizes.items():
                start = number * size
                rows = orders[stream].take(start, start + max(2, int(share * size)))
                batch[stream] = self.part_of(stream).fetch(rows)
            self._reference.append(batch)
        return self._reference

    # -- where the run stands ----------------------------------------------------------------------
    @property
    def position(self) -> int:
        """Micro-batches done: the trainer's count, else the restored one."""
        # not the sampler's count: workers fetch ahead
        done = 0
        if self.trainer is not None:
            progress = self.trainer.fit_loop.epoch_loop.batch_progress
            # Lightning annotates `total` as its base class, which lacks `processed`
            done = progress.total.processed  # type: ignore[attr-defined]
        return done or self._position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = int(state["position"])

    def teardown(self, stage: str | None = None) -> None:
        # the next stage of a recipe restarts its streams
        self._position = 0
